// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"fmt"
	"strings"
)

const upperHex = "0123456789ABCDEF"

// Token encodes any text (a node name, a pod name) as one token of a subject.
// ASCII letters, digits and '-' stay, every other byte becomes "=XX" in hex, so
// that two texts never share a token. The empty text becomes "=".
func Token(name string) string {
	if name == "" {
		return "="
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		c := name[i]
		if plain(c) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('=')
		b.WriteByte(upperHex[c>>4])
		b.WriteByte(upperHex[c&15])
	}
	return b.String()
}

// FromToken is the inverse of Token.
func FromToken(token string) (string, error) {
	if token == "=" {
		return "", nil
	}
	var b strings.Builder
	for i := 0; i < len(token); i++ {
		c := token[i]
		switch {
		case plain(c):
			b.WriteByte(c)
		case c == '=' && i+2 < len(token):
			hi, lo := strings.IndexByte(upperHex, token[i+1]), strings.IndexByte(upperHex, token[i+2])
			if hi < 0 || lo < 0 || plain(byte(hi<<4|lo)) {
				return "", fmt.Errorf("decode subject token %q: bad escape at byte %d", token, i)
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		default:
			return "", fmt.Errorf("decode subject token %q: byte %d does not belong in a token", token, i)
		}
	}
	if b.Len() == 0 {
		return "", fmt.Errorf("decode subject token: it is empty")
	}
	return b.String(), nil
}

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-'
}

// checkSubject accepts what Token and dots make; wildcards only in a filter.
func checkSubject(subject string, filter bool) error {
	if subject == "" || len(subject) > 512 {
		return fmt.Errorf("subject of %d bytes: must be 1 to 512 bytes long", len(subject))
	}
	tokens := strings.Split(subject, ".")
	for i, token := range tokens {
		if filter && (token == "*" || token == ">" && i == len(tokens)-1) {
			continue
		}
		if token == "" {
			return fmt.Errorf("subject %q: token %d is empty", subject, i+1)
		}
		for j := 0; j < len(token); j++ {
			if !plain(token[j]) && token[j] != '=' {
				return fmt.Errorf("subject %q: token %d must be encoded with bus.Token", subject, i+1)
			}
		}
	}
	return nil
}
