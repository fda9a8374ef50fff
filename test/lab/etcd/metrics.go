// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A Bucket counts the values up to a limit, those of smaller buckets among them.
type Bucket struct {
	// Limit is +Inf for the last.
	Limit float64
	Count uint64
}

// A Histogram is one of etcd's metrics, in seconds.
type Histogram struct {
	Buckets []Bucket
	Count   uint64
	Sum     float64
}

// Since is what came after an earlier reading of the same histogram.
func (h Histogram) Since(earlier Histogram) Histogram {
	before := map[float64]uint64{}
	for _, b := range earlier.Buckets {
		before[b.Limit] = b.Count
	}
	out := Histogram{Count: h.Count - earlier.Count, Sum: h.Sum - earlier.Sum}
	for _, b := range h.Buckets {
		out.Buckets = append(out.Buckets, Bucket{Limit: b.Limit, Count: b.Count - before[b.Limit]})
	}
	return out
}

// Mean is 0 when nothing was counted.
func (h Histogram) Mean() time.Duration {
	if h.Count == 0 {
		return 0
	}
	return time.Duration(h.Sum / float64(h.Count) * float64(time.Second))
}

// Above is the fraction of the values over a limit that is one of the buckets', 0
// when nothing was counted. etcd's are 1 ms times a power of two.
func (h Histogram) Above(limit time.Duration) float64 {
	for _, b := range h.Buckets {
		if h.Count > 0 && math.Abs(b.Limit-limit.Seconds()) < 1e-9 {
			return 1 - float64(b.Count)/float64(h.Count)
		}
	}
	return 0
}

// parseHistogram reads one histogram without labels of its own from the text format
// of Prometheus.
func parseHistogram(text, name string) (Histogram, error) {
	var h Histogram
	found := false
	for line := range strings.Lines(text) {
		rest, ours := strings.CutPrefix(strings.TrimSpace(line), name+"_")
		if !ours {
			continue
		}
		key, value, _ := strings.Cut(rest, " ")
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return h, fmt.Errorf("read %s: line %q: %w", name, line, err)
		}
		switch {
		case key == "sum":
			h.Sum = number
		case key == "count":
			h.Count, found = uint64(number), true
		case strings.HasPrefix(key, `bucket{le="`):
			limit, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimPrefix(key, `bucket{le="`), `"}`), 64)
			if err != nil {
				return h, fmt.Errorf("read %s: line %q: %w", name, line, err)
			}
			h.Buckets = append(h.Buckets, Bucket{Limit: limit, Count: uint64(number)})
		}
	}
	if !found {
		return h, fmt.Errorf("read %s: there is no such histogram", name)
	}
	return h, nil
}
