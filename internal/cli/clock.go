// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// duration says d as a person would: two units at most.
func duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + duration(-d)
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute-time.Second/2:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%dm\u00a0%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		d = d.Round(time.Minute)
		return fmt.Sprintf("%dh\u00a0%02dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		d = d.Round(time.Hour)
		return fmt.Sprintf("%dd\u00a0%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}

// age is how long ago t was. Clocks differ, so it may lie ahead.
func (p *printer) age(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	d := p.now().Sub(t.AsTime())
	if d < 0 {
		if d > -time.Second {
			return "now"
		}
		return duration(-d) + string(glue) + "ahead"
	}
	return duration(d) + string(glue) + "ago"
}

// clock is the time of day in the user's zone, with the date unless it is today.
func (p *printer) clock(t *timestamppb.Timestamp) string {
	if t == nil {
		return "at an unknown time"
	}
	at, now := t.AsTime().In(p.loc), p.now().In(p.loc)
	if at.YearDay() == now.YearDay() && at.Year() == now.Year() {
		return at.Format("15:04:05")
	}
	return at.Format("2006-01-02\u00a015:04:05")
}

// when is clock time and age.
func (p *printer) when(t *timestamppb.Timestamp) string {
	if t == nil {
		return "at an unknown time"
	}
	return p.clock(t) + " (" + p.age(t) + ")"
}
