// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/term"
)

// A Terminal is what the rendering may assume about where its output goes.
type Terminal struct {
	// Width in columns; 0 means that lines may be of any length (a pipe).
	Width int
	// Interactive is true on a terminal: spinners and colour make sense.
	Interactive bool
	// Colour allows SGR escapes.
	Colour bool
	// Unicode is false where the locale is not UTF-8.
	Unicode bool
}

// Detect looks at w and the environment. Colour needs a terminal that is not
// "dumb" and no NO_COLOR (https://no-color.org: any non-empty value). COLUMNS
// wins over the terminal's own size, as POSIX asks of utilities.
func Detect(w io.Writer, env func(string) (string, bool)) Terminal {
	t := Terminal{Unicode: utf8Locale(env)}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		t.Interactive = true
		t.Width = 80
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			t.Width = width
		}
	}
	if s, ok := env("COLUMNS"); ok {
		if n, err := strconv.Atoi(s); err == nil && n > 0 {
			t.Width = n
		}
	}
	noColor, _ := env("NO_COLOR")
	kind, _ := env("TERM")
	t.Colour = t.Interactive && noColor == "" && kind != "dumb"
	return t
}

// utf8Locale follows the order of setlocale(3): LC_ALL, LC_CTYPE, LANG.
func utf8Locale(env func(string) (string, bool)) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v, _ := env(name); v != "" {
			v = strings.ToLower(v)
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// ascii is what each sign becomes where the locale is not UTF-8.
var ascii = map[rune]string{
	'…': "...", '–': "-", '—': "-", '−': "-", '→': "->", '←': "<-", '±': "+/-",
	'≥': ">=", '≤': "<=", '≠': "!=", '≈': "~", '×': "x", 'µ': "u", 'μ': "u", '·': "|",
	'●': "*", '○': "o", '■': "#", '□': "-", '✓': "+", '✗': "x", '“': `"`, '”': `"`,
	'‘': "'", '’': "'", '°': " deg", '²': "^2",
}

// glue is a space at which no line is broken. It is printed as a plain one.
const glue = '\u00a0'

// unglue is the last thing done to text.
func unglue(s string) string { return strings.ReplaceAll(s, string(glue), " ") }

// dot separates facts; it stays on the line of the fact before it.
const dot = "\u00a0· "

// clean makes foreign text safe and fit to print: names in it come from pods and
// devices, so control characters, which could drive the terminal, are replaced.
// Line breaks become spaces; callers that keep them split first.
func (t Terminal) clean(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t':
			b.WriteByte(' ')
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar:
			b.WriteByte('?')
		case t.Unicode || r < 0x80 || r == glue:
			b.WriteRune(r)
		case ascii[r] != "":
			b.WriteString(ascii[r])
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

// width is the number of columns that s takes: combining marks take none.
func width(s string) int {
	n := 0
	for _, r := range s {
		if !unicode.Is(unicode.Mn, r) {
			n++
		}
	}
	return n
}
