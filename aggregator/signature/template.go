// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// A template is a sentence with {CEL expressions} in it. {{ and }} stand for
// the braces themselves.
type template []segment

// A segment is a literal or an expression, never both.
type segment struct {
	literal string
	expr    *expression
}

// A fragment is a segment before compilation.
type fragment struct {
	literal string
	code    string
	// offset in runes of code in the text.
	offset int
}

// A templateError says what is wrong at which rune.
type templateError struct {
	offset int
	why    string
}

func (e *templateError) Error() string { return e.why }

// splitTemplate cuts a text into literals and code. Braces and quotes inside
// code are followed, so that {x ? "}" : "{"} is one expression.
func splitTemplate(s string) ([]fragment, error) {
	var out []fragment
	var literal strings.Builder
	r := []rune(s)
	flush := func() {
		if literal.Len() > 0 {
			out = append(out, fragment{literal: literal.String()})
			literal.Reset()
		}
	}
	for i := 0; i < len(r); {
		switch {
		case (r[i] == '{' || r[i] == '}') && i+1 < len(r) && r[i+1] == r[i]:
			literal.WriteRune(r[i])
			i += 2
		case r[i] == '}':
			return nil, &templateError{i, "} without a { before it"}
		case r[i] == '{':
			end := codeEnd(r, i+1)
			if end < 0 {
				return nil, &templateError{i, "{ without its }"}
			}
			code := string(r[i+1 : end])
			if strings.TrimSpace(code) == "" {
				return nil, &templateError{i, "there is no expression between { and }"}
			}
			flush()
			out = append(out, fragment{code: code, offset: i + 1})
			i = end + 1
		default:
			literal.WriteRune(r[i])
			i++
		}
	}
	flush()
	return out, nil
}

// codeEnd finds the brace that ends code, or -1.
func codeEnd(r []rune, i int) int {
	depth := 0
	var quote rune
	for ; i < len(r); i++ {
		switch c := r[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '{':
			depth++
		case c == '}':
			if depth == 0 {
				return i
			}
			depth--
		}
	}
	return -1
}

// template compiles a text; nil after a problem was recorded or when the text
// is missing.
func (c *compiler) template(t text, what string) template {
	if t.node == nil {
		return nil
	}
	fragments, err := splitTemplate(t.value)
	if err != nil {
		offset := 0
		if te, ok := err.(*templateError); ok {
			offset = te.offset
		}
		line, column := c.src.position(t.node, offset)
		c.src.failAt(line, column, what, err.Error(), "write {expression}, or {{ and }} for the braces themselves")
		return nil
	}
	var out template
	for _, f := range fragments {
		if f.code == "" {
			out = append(out, segment{literal: f.literal})
			continue
		}
		if x := c.compile(t, f.offset, f.code, what, nil, maxTemplateCost); x != nil {
			out = append(out, segment{expr: x})
		}
	}
	return out
}

// formatValue writes a value as a person does: whole numbers plain, seconds in
// the unit that suits their size, flags as yes or no.
func formatValue(v any, unit string) string {
	switch t := v.(type) {
	case int64:
		if unit == "seconds" {
			return formatSeconds(float64(t))
		}
		return strconv.FormatInt(t, 10)
	case float64:
		switch unit {
		case "seconds":
			return formatSeconds(t)
		case "parts per million":
			return significant(t) + " ppm"
		}
		return significant(t)
	case bool:
		if t {
			return "yes"
		}
		return "no"
	case string:
		return cleanText(t)
	}
	return fmt.Sprint(v)
}

func formatSeconds(s float64) string {
	a := math.Abs(s)
	switch {
	case math.IsNaN(a) || math.IsInf(a, 0):
		return fmt.Sprint(s)
	case a == 0:
		return "0 s"
	case a < 1e-3:
		return significant(s*1e6) + " µs"
	case a < 1:
		return significant(s*1e3) + " ms"
	case a < 119.5:
		return significant(s) + " s"
	case a < 7170:
		return twoUnits(s, 1, "s", "min", 60)
	case a < 86400*2-1800:
		return twoUnits(s, 60, "min", "h", 60)
	default:
		return twoUnits(s, 3600, "h", "days", 24)
	}
}

// twoUnits writes s as large and small units after rounding to the small one.
func twoUnits(s, seconds float64, small, large string, perLarge float64) string {
	sign := ""
	if s < 0 {
		sign = "-"
	}
	n := math.Round(math.Abs(s) / seconds)
	whole, rest := math.Floor(n/perLarge), math.Mod(n, perLarge)
	if rest == 0 {
		return fmt.Sprintf("%s%.0f %s", sign, whole, large)
	}
	return fmt.Sprintf("%s%.0f %s %.0f %s", sign, whole, large, rest, small)
}

// significant keeps three digits, and all digits of whole numbers.
func significant(v float64) string {
	if a := math.Abs(v); a >= 100 && a < 1e15 {
		return strconv.FormatFloat(math.Round(v), 'f', -1, 64)
	}
	out := strconv.FormatFloat(v, 'g', 3, 64)
	if strings.Contains(out, "e") {
		return out
	}
	f, _ := strconv.ParseFloat(out, 64)
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// cleanText keeps a text from a node from breaking the line it is shown on.
func cleanText(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	return clip(s)
}

func clip(s string) string {
	if len(s) <= maxTextRunes {
		return s
	}
	if r := []rune(s); len(r) > maxTextRunes {
		return string(r[:maxTextRunes-1]) + "…"
	}
	return s
}
