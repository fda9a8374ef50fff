// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxIOPS is the largest cap that can be set: one request each microsecond, which
// no FUSE server reaches.
const MaxIOPS = 1_000_000

// Settings say how the disk is slow. The zero value is a healthy disk. As JSON it
// is {"fsync":"5ms","iops":100}; what is not named is healthy.
type Settings struct {
	// Fsync is added to each flush of the disk's cache. 0: nothing is added.
	Fsync time.Duration
	// IOPS caps reads, writes and flushes together, a second; requests over it wait
	// in line. 0: no cap.
	IOPS int
}

type settingsJSON struct {
	Fsync string `json:"fsync"`
	IOPS  int    `json:"iops"`
}

func (s Settings) validate() error {
	if s.Fsync < 0 || s.Fsync > time.Minute {
		return fmt.Errorf("fsync is %s; it can be 0s to 1m", s.Fsync)
	}
	if s.IOPS < 0 || s.IOPS > MaxIOPS {
		return fmt.Errorf("iops is %d; it can be 0 (no cap) to %d", s.IOPS, MaxIOPS)
	}
	return nil
}

// MarshalJSON writes the delay as a Go duration.
func (s Settings) MarshalJSON() ([]byte, error) {
	return json.Marshal(settingsJSON{Fsync: s.Fsync.String(), IOPS: s.IOPS})
}

// UnmarshalJSON refuses unknown fields and values out of range.
func (s *Settings) UnmarshalJSON(raw []byte) error {
	var fields settingsJSON
	if err := strict(raw, &fields); err != nil {
		return err
	}
	out := Settings{IOPS: fields.IOPS}
	if fields.Fsync != "" {
		var err error
		if out.Fsync, err = time.ParseDuration(fields.Fsync); err != nil {
			return fmt.Errorf("fsync: %w", err)
		}
	}
	if err := out.validate(); err != nil {
		return err
	}
	*s = out
	return nil
}

// strict decodes exactly one JSON value that has known fields only.
func strict(raw []byte, to any) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(to); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value in a line")
	}
	return nil
}

// Stats are the requests that the disk has answered since it began.
type Stats struct {
	Reads  uint64 `json:"reads"`
	Writes uint64 `json:"writes"`
	// Fsyncs are flushes of the disk's cache (REQ_OP_FLUSH), not calls of fsync(2).
	Fsyncs uint64 `json:"fsyncs"`
	// MemoryBytes is what the pages written so far occupy.
	MemoryBytes int64 `json:"memoryBytes"`
}

// askStats is the line that asks a disk or a neighbour for its counters.
const askStats = `{"stats":true}`
