// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"strings"
	"unicode/utf8"
)

func control(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }

// checkIdentifier wants what may be a key of a map, a label or a file name.
func checkIdentifier(what, s string, limit int) error {
	switch {
	case s == "":
		return refuse("shape", "%s is empty", what)
	case len(s) > limit:
		return refuse("text", "%s has %d bytes, at most %d are taken", what, len(s), limit)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, control):
		return refuse("text", "%s has bytes that are not printable UTF-8", what)
	}
	return nil
}

// checkBootID wants "<kernel boot id>/<start of the agent>".
func checkBootID(s string) error {
	if err := checkIdentifier("boot id", s, maxIdentifier); err != nil {
		return err
	}
	kernel, start, ok := strings.Cut(s, "/")
	if !ok || kernel == "" || start == "" || strings.Trim(start, "0123456789") != "" {
		return refuse("shape", "boot id %q is not <kernel boot id>/<start of the agent in nanoseconds>", clip(s))
	}
	return nil
}

// sameKernel says whether the boottime stamps of two boot ids can be compared:
// they come from one boot of one kernel, whichever run of the agent took them.
func sameKernel(a, b string) bool {
	ka, _, _ := strings.Cut(a, "/")
	kb, _, _ := strings.Cut(b, "/")
	return ka == kb
}

// first returns the first error; joined ones would take several lines.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
