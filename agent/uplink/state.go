// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stateFile = "uplink.json"
	// A state holds a few hosts with a few addresses each.
	maxStateBytes   = 64 << 10
	maxStoredHosts  = 16
	maxStoredPerOne = 8
)

// A savedState is what the uplink knows beyond one run.
type savedState struct {
	// Verified is the latest time at which a certificate of the pinned CA was
	// verified with the node's clock or a measured time.
	Verified time.Time `json:"verified"`
	// Addresses are those that worked, per host, best first.
	Addresses map[string][]netip.Addr `json:"addresses,omitempty"`
}

// parseState reads a saved state and holds it to its bounds.
func parseState(data []byte) (savedState, error) {
	var s savedState
	if err := json.Unmarshal(data, &s); err != nil {
		return savedState{}, fmt.Errorf("parse uplink state: %w", err)
	}
	if len(s.Addresses) > maxStoredHosts {
		return savedState{}, fmt.Errorf("parse uplink state: %d hosts, at most %d are kept", len(s.Addresses), maxStoredHosts)
	}
	for host, addresses := range s.Addresses {
		valid := slices.DeleteFunc(addresses, func(a netip.Addr) bool { return !a.IsValid() })
		s.Addresses[host] = valid[:min(len(valid), maxStoredPerOne)]
	}
	return s, nil
}

// A memory keeps the saved state, on disk if there is a directory for it. Safe
// for concurrent use.
type memory struct {
	dir  string
	log  *slog.Logger
	disk *background

	mu      sync.Mutex
	state   savedState
	failing bool
}

// newMemory reads what an earlier run saved. A file that cannot be read is
// reported and replaced with the next change.
func newMemory(dir string, log *slog.Logger) *memory {
	m := &memory{dir: dir, log: log, state: savedState{Addresses: map[string][]netip.Addr{}}}
	m.disk = newBackground(m.save)
	if dir == "" {
		return m
	}
	state, err := readState(filepath.Join(dir, stateFile))
	if err != nil {
		log.Warn("cannot read the saved uplink state; starting without", "dir", dir, "error", err)
	} else if state.Addresses != nil {
		m.state = state
	} else {
		m.state.Verified = state.Verified
	}
	return m
}

func readState(path string) (savedState, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return savedState{}, nil
	}
	if err != nil {
		return savedState{}, fmt.Errorf("open uplink state: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStateBytes+1))
	if err != nil {
		return savedState{}, fmt.Errorf("read uplink state: %w", err)
	}
	if len(data) > maxStateBytes {
		return savedState{}, fmt.Errorf("read uplink state %s: larger than %d bytes", path, maxStateBytes)
	}
	return parseState(data)
}

// lastVerified is zero when nothing was verified yet.
func (m *memory) lastVerified() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Verified
}

// verified records a time of verification; it never moves back.
func (m *memory) verified(at time.Time) {
	m.mu.Lock()
	later := at.After(m.state.Verified)
	if later {
		m.state.Verified = at.Round(0).UTC()
	}
	m.mu.Unlock()
	if later {
		m.changed()
	}
}

// addresses are the last good ones of a host, best first.
func (m *memory) addresses(host string) []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.state.Addresses[host])
}

// worked records that an address of a host led to a verified connection, and
// the others that its name had.
func (m *memory) worked(host string, good netip.Addr, others []netip.Addr) {
	list := []netip.Addr{good}
	for _, a := range others {
		if a != good && len(list) < maxStoredPerOne {
			list = append(list, a)
		}
	}
	m.mu.Lock()
	same := slices.Equal(m.state.Addresses[host], list)
	if !same {
		m.state.Addresses[host] = list
	}
	m.mu.Unlock()
	if !same {
		m.changed()
	}
}

func (m *memory) changed() {
	if m.dir != "" {
		m.disk.kick()
	}
}

// save writes the state beside the old one and renames it, so that a crash
// leaves one of the two.
func (m *memory) save() {
	m.mu.Lock()
	data, err := json.Marshal(m.state)
	m.mu.Unlock()
	if err == nil {
		err = replaceFile(m.dir, stateFile, data)
	}
	m.mu.Lock()
	was := m.failing
	m.failing = err != nil
	m.mu.Unlock()
	if err != nil && !was {
		m.log.Warn("cannot save the uplink state; a restart will not know it", "dir", m.dir, "error", err)
	}
}

func replaceFile(dir, name string, data []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	temporary := filepath.Join(dir, name+".tmp")
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("make state file: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(temporary, filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write state file: %w", err), os.Remove(temporary))
	}
	return nil
}

func (m *memory) close() { m.disk.close(readPatience) }
