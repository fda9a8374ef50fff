// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// maxDuration bounds everything that the run waits for.
	maxDuration = 24 * time.Hour
	// maxOffset bounds how wrong a clock can be: ten years, the common life of a
	// cluster's own certificate authority.
	maxOffset = 10 * 365 * 24 * time.Hour
	// maxBitsPerSecond is 1 Tbit/s, beyond any interface.
	maxBitsPerSecond = 1_000_000_000_000
)

// duration reads an optional duration between least and most, both inclusive.
func (o object) duration(key string, fallback, least, most time.Duration) time.Duration {
	text, ok := o.text(key)
	if !ok {
		return fallback
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		o.wrong(key, quote(text)+" is not a duration", "write for example 500ms, 30s or 2m")
		return fallback
	case d < least && least > 0 && d <= 0:
		o.wrong(key, quote(text)+" is not more than zero", "write for example 500ms, 30s or 2m")
		return fallback
	case d < least || d > most:
		o.wrong(key, fmt.Sprintf("%s lies outside %s to %s", quote(text), short(least), short(most)), "write a duration within")
		return fallback
	}
	return d
}

// short is a duration without the zeroes behind it: 40s, 2m, 24h.
func short(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// decimal is an integer without the other notations of YAML: 010 would be eight.
var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

// integer reads an optional integer between least and most, both inclusive.
func (o object) integer(key string, fallback, least, most int) int {
	if !o.has(key) {
		return fallback
	}
	r := resolve(o.values[key])
	if r.Kind != yaml.ScalarNode || r.ShortTag() != "!!int" || !decimal.MatchString(r.Value) {
		o.wrong(key, describe(r)+" is not a plain whole number", fmt.Sprintf("write a number from %d to %d", least, most))
		return fallback
	}
	v, err := strconv.Atoi(r.Value)
	if err != nil || v < least || v > most {
		o.wrong(key, fmt.Sprintf("%s lies outside %d to %d", r.Value, least, most), "write a number within")
		return fallback
	}
	return v
}

// number reads an optional finite number.
func (o object) number(key string) (float64, bool) {
	if !o.has(key) {
		return 0, false
	}
	r := resolve(o.values[key])
	var v float64
	numeric := r.Kind == yaml.ScalarNode && (r.ShortTag() == "!!int" || r.ShortTag() == "!!float")
	if !numeric || r.Decode(&v) != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		o.wrong(key, describe(r)+" is not a number", "write a number such as 0.05")
		return 0, false
	}
	return v, true
}

// A unit is a suffix of a quantity and what it multiplies by.
type unit struct {
	suffix string
	factor int64
}

func sizeUnits() []unit {
	return []unit{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"", 1}}
}

func rateUnits() []unit {
	return []unit{{"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"", 1}}
}

var quantityText = regexp.MustCompile(`^(0|[1-9][0-9]*)([A-Za-z]*)$`)

// quantity reads an optional whole number with a unit, between least and most,
// both inclusive.
func (o object) quantity(key string, units []unit, fallback, least, most int64) int64 {
	text, ok := o.text(key)
	if !ok {
		return fallback
	}
	suffixes := ""
	for _, u := range units {
		if u.suffix != "" {
			suffixes += " " + u.suffix
		}
	}
	m := quantityText.FindStringSubmatch(text)
	if m != nil {
		for _, u := range units {
			if u.suffix != m[2] {
				continue
			}
			v, err := strconv.ParseInt(m[1], 10, 64)
			if err != nil || v > most/u.factor || v*u.factor < least {
				o.wrong(key, fmt.Sprintf("%s lies outside %d to %d", quote(text), least, most), "write a number within")
				return fallback
			}
			return v * u.factor
		}
	}
	o.wrong(key, quote(text)+" is not a whole number with an optional unit", "the units are"+suffixes)
	return fallback
}
