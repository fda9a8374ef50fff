// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxTokenBytes bounds the token file. A projected service-account token has
// about 1.2 KiB; servers commonly take 8 KiB of headers.
const maxTokenBytes = 8 << 10

// A token authenticates this node. It is never logged and part of no error.
type token struct {
	value   string
	nodeUID string
	// nodeName is "" when the token does not say.
	nodeName string
}

// token reads the token file for a request. A token of another node is refused
// here: with it the aggregator would file what this node measures under that one's
// name, and could not tell.
func (c *Client) token() (token, error) {
	t, err := readToken(c.cfg.TokenFile)
	if err != nil {
		return token{}, fmt.Errorf("%w: %w", errNoToken, err)
	}
	if t.nodeName != "" && c.cfg.NodeName != "" && t.nodeName != c.cfg.NodeName {
		return token{}, fmt.Errorf("%w: the token in %s is of node %q, this is node %q: give it its own, or mend --node-name", errNoToken, c.cfg.TokenFile, clipName(t.nodeName), c.cfg.NodeName)
	}
	return t, nil
}

// clipName bounds a name that came from a file for a message.
func clipName(name string) string { return name[:min(len(name), 64)] }

// readToken reads the token file. It is called for every request, for the
// kubelet replaces the file before the token expires.
func readToken(path string) (token, error) {
	f, err := os.Open(path)
	if err != nil {
		return token{}, fmt.Errorf("open token file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTokenBytes+1))
	if err != nil {
		return token{}, fmt.Errorf("read token file: %w", err)
	}
	if len(data) > maxTokenBytes {
		return token{}, fmt.Errorf("read token file %s: larger than %d bytes; is it a token?", path, maxTokenBytes)
	}
	t, err := parseToken(data)
	if err != nil {
		return token{}, fmt.Errorf("read token file %s: %w", path, err)
	}
	return t, nil
}

// parseToken takes the node uid out of a JWT's payload (RFC 7519 section 3).
// Nothing is verified: the aggregator does that, and refuses a batch whose node
// uid is not the one it found. No part of the token gets into an error.
func parseToken(data []byte) (token, error) {
	value := string(bytes.TrimSpace(data))
	if value == "" {
		return token{}, errors.New("the file is empty")
	}
	parts := strings.Split(value, ".")
	if len(parts) != 3 {
		return token{}, fmt.Errorf("not a JSON web token: %d parts instead of 3", len(parts))
	}
	for _, c := range []byte(value) {
		// RFC 6750 section 2.1: what a bearer token may consist of.
		if !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=", rune(c)) {
			return token{}, errors.New("not a bearer token: it has characters that may not be in one")
		}
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return token{}, errors.New("not a JSON web token: its payload is not base64url")
	}
	var claims struct {
		Kubernetes struct {
			Node struct {
				Name string `json:"name"`
				UID  string `json:"uid"`
			} `json:"node"`
		} `json:"kubernetes.io"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return token{}, errors.New("not a JSON web token: its payload is not the JSON expected")
	}
	uid := claims.Kubernetes.Node.UID
	if uid == "" {
		return token{}, errors.New(`the token names no node (claim "kubernetes.io".node.uid); Kubernetes puts it into projected tokens of pods since 1.30`)
	}
	if len(uid) > 256 {
		return token{}, fmt.Errorf("the token's node uid has %d bytes, at most 256 are taken", len(uid))
	}
	return token{value: value, nodeUID: uid, nodeName: claims.Kubernetes.Node.Name}, nil
}

// redact makes a server's words fit for one log line: without the token, should
// the server repeat it, without control characters, and not too long.
func redact(message string, tokens ...token) string {
	for _, t := range tokens {
		if t.value == "" {
			continue
		}
		message = strings.ReplaceAll(message, t.value, "[token]")
		// The signature alone must not get out either.
		if i := strings.LastIndexByte(t.value, '.'); len(t.value)-i > 8 {
			message = strings.ReplaceAll(message, t.value[i+1:], "[token]")
		}
	}
	message = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, message)
	const most = 400
	if len(message) > most {
		message = strings.ToValidUTF8(message[:most], "") + "…"
	}
	return message
}
