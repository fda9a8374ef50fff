// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"bytes"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// A Status says how the uplink is doing.
type Status struct {
	Endpoints []EndpointStatus
	// RingBytes and SpoolBytes are what waiting episodes take.
	RingBytes  int
	SpoolBytes int64
}

// Connected says whether any endpoint is connected.
func (s Status) Connected() bool {
	for _, e := range s.Endpoints {
		if e.Connected {
			return true
		}
	}
	return false
}

// An EndpointStatus says how one endpoint is doing.
type EndpointStatus struct {
	// Endpoint is HOST:PORT.
	Endpoint  string
	Connected bool
	// LastAckBoottime is when the last batch was acknowledged, in nanoseconds of
	// CLOCK_BOOTTIME; 0 when none was.
	LastAckBoottime uint64
	AckedSequence   uint64
	// LastError is one line about the last failure, without any secret; empty
	// while all is well. LastErrorReason is its class, of a closed list.
	LastError       string
	LastErrorReason string
	// PendingEpisodes wait for this endpoint's acknowledgement; DroppedEpisodes
	// it will never get.
	PendingEpisodes int
	DroppedEpisodes uint64
	// DNSFailed says that the last lookup of the endpoint's name failed.
	DNSFailed bool
	// TLSTime is the time at which the present, or last, connection's certificate
	// was verified; nil before the first.
	TLSTime *evidencev1.TLSTime
	Zone    string
}

// Status returns the present state. Messages in it are shared and must not be
// changed.
func (c *Client) Status() Status {
	count := c.episodes.count()
	s := Status{RingBytes: count.ringBytes, SpoolBytes: count.spoolBytes}
	for i, e := range c.endpoints {
		e.mu.Lock()
		one := e.status
		e.mu.Unlock()
		one.PendingEpisodes = c.episodes.waiting(i)
		one.DroppedEpisodes = count.dropped[i]
		s.Endpoints = append(s.Endpoints, one)
	}
	return s
}

// agentStatus is the state of the agent for one endpoint's batch.
func (c *Client) agentStatus(e *endpoint, s *session) *evidencev1.AgentStatus {
	e.mu.Lock()
	dns := e.status.DNSFailed
	e.mu.Unlock()
	return &evidencev1.AgentStatus{
		Version:              c.cfg.Version,
		KernelRelease:        kernelRelease(),
		Architecture:         runtime.GOARCH,
		NodeName:             c.cfg.NodeName,
		DroppedEpisodesTotal: c.episodes.droppedFor(e.index),
		RssBytes:             residentBytes(),
		CpuSecondsTotal:      cpuSeconds(),
		TlsTime:              s.tls,
		DnsFailed:            dns,
	}
}

// kernelRelease is uname -r; empty if the kernel does not say.
func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// residentBytes is the second field of /proc/self/statm (proc(5)) in bytes; 0
// when it cannot be read.
func residentBytes() uint64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(data)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// cpuSeconds is user and system time of the process, getrusage(2).
func cpuSeconds() float64 {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}
