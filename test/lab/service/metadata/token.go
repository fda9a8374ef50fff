// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"time"
)

// maxTokenSeconds is six hours (Amazon EC2 User Guide, "Use the Instance Metadata
// Service": the TTL is from 1 to 21600 seconds).
const maxTokenSeconds = 21600

// tokens makes and checks the session tokens of IMDSv2. A token says until when it
// holds and is sealed for one instance, so nothing is kept of it.
type tokens struct{ key []byte }

// issue returns a token that holds for an instance until a time.
func (t tokens) issue(instance string, until time.Time) string {
	raw := binary.BigEndian.AppendUint64(nil, uint64(until.UnixNano()))
	return base64.URLEncoding.EncodeToString(append(raw, t.seal(instance, raw)...))
}

// left returns how long a token still holds for an instance, and false when it does
// not hold (any more), or is none of this server's.
func (t tokens) left(token, instance string, now time.Time) (time.Duration, bool) {
	raw, err := base64.URLEncoding.DecodeString(token)
	if err != nil || len(raw) != 8+sha256.Size || !hmac.Equal(raw[8:], t.seal(instance, raw[:8])) {
		return 0, false
	}
	until := time.Unix(0, int64(binary.BigEndian.Uint64(raw)))
	return until.Sub(now), until.After(now)
}

func (t tokens) seal(instance string, raw []byte) []byte {
	mac := hmac.New(sha256.New, t.key)
	mac.Write(raw)
	mac.Write([]byte(instance))
	return mac.Sum(nil)
}

// parseTokenTTL reads the header of the PUT. It is false for what is no number and
// for one out of range.
func parseTokenTTL(header string) (time.Duration, bool) {
	seconds, err := strconv.ParseUint(header, 10, 32)
	if err != nil || seconds < 1 || seconds > maxTokenSeconds {
		return 0, false
	}
	return time.Duration(seconds) * time.Second, true
}
