// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A usage is what a process has taken so far.
type usage struct {
	at time.Time
	// processor is user and system time of all threads, of those that ended too.
	processor time.Duration
	// user and system come in steps of 10 ms.
	user, system time.Duration
	// switches are context switches by thread.
	switches map[string]uint64
	// memory has the fields of proc(5) status in MiB: VmRSS, VmHWM, RssAnon, RssFile.
	memory map[string]float64
}

// clockTick is USER_HZ, which is 100 on every architecture of this project.
const clockTick = time.Second / 100

func usageOf(b *testing.B, pid int) usage {
	b.Helper()
	u := usage{at: time.Now(), switches: map[string]uint64{}, memory: map[string]float64{}}
	// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED), include/linux/posix-timers_types.h:
	// in nanoseconds, where /proc/PID/stat has ticks.
	var ts unix.Timespec
	require.NoError(b, unix.ClockGettime(int32(^pid)<<3|2, &ts))
	u.processor = time.Duration(ts.Nano())

	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(b, err)
	// The name, in parentheses, may hold spaces. utime and stime are fields 14, 15.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	for i, into := range []*time.Duration{&u.user, &u.system} {
		ticks, err := strconv.ParseInt(fields[11+i], 10, 64)
		require.NoError(b, err)
		*into = time.Duration(ticks) * clockTick
	}
	for key, value := range statusOf(b, fmt.Sprintf("/proc/%d/status", pid)) {
		if strings.HasPrefix(key, "Vm") || strings.HasPrefix(key, "Rss") {
			u.memory[key] = float64(value) / 1024
		}
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	require.NoError(b, err)
	for _, thread := range threads {
		status := statusOf(b, thread)
		u.switches[thread] = status["voluntary_ctxt_switches"] + status["nonvoluntary_ctxt_switches"]
	}
	return u
}

// statusOf reads the numbers of a status file; of one that has gone, none.
func statusOf(b *testing.B, path string) map[string]uint64 {
	b.Helper()
	out := map[string]uint64{}
	file, err := os.Open(path)
	if err != nil {
		return out
	}
	defer file.Close()
	for s := bufio.NewScanner(file); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), ":")
		if n, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64); err == nil {
			out[key] = n
		}
	}
	return out
}

// A share is what was taken within some time.
type share struct {
	wall, processor, user, system time.Duration
	switches                      uint64
}

// since is what was taken after before. Context switches of threads that began
// and ended within are not in it.
func (u usage) since(before usage) share {
	s := share{
		wall: u.at.Sub(before.at), processor: u.processor - before.processor,
		user: u.user - before.user, system: u.system - before.system,
	}
	for thread, n := range u.switches {
		s.switches += n - before.switches[thread]
	}
	return s
}

func (s *share) add(o share) {
	s.wall += o.wall
	s.processor += o.processor
	s.user += o.user
	s.system += o.system
	s.switches += o.switches
}

// report reports a share, and the memory as of u.
func (u usage) report(b *testing.B, s share) {
	percent := func(d time.Duration) float64 { return 100 * d.Seconds() / s.wall.Seconds() }
	b.ReportMetric(percent(s.processor), "core-%")
	b.ReportMetric(percent(s.user), "user-%")
	b.ReportMetric(percent(s.system), "system-%")
	b.ReportMetric(float64(s.switches)/s.wall.Seconds(), "switches/s")
	b.ReportMetric(u.memory["VmRSS"], "RSS-MiB")
	b.ReportMetric(u.memory["VmHWM"], "peak-RSS-MiB")
	b.ReportMetric(u.memory["RssAnon"], "anonymous-MiB")
	b.ReportMetric(0, "ns/op") // says how long was measured, which is no result
}

// scraped are the samples of one scrape, by name with labels.
type scraped map[string]float64

func (n *node) scrape() scraped {
	n.b.Helper()
	body, ok := n.machine.Get(metricsURL)
	require.True(n.b, ok, "%s", body)
	out := scraped{}
	for s := bufio.NewScanner(strings.NewReader(body)); s.Scan(); {
		i := strings.LastIndexByte(s.Text(), ' ')
		if i < 0 || strings.HasPrefix(s.Text(), "#") {
			continue
		}
		if value, err := strconv.ParseFloat(s.Text()[i+1:], 64); err == nil {
			out[s.Text()[:i]] = value
		}
	}
	return out
}

// sum adds up the samples of one name whose labels hold every part given.
func (s scraped) sum(name string, parts ...string) float64 {
	var total float64
samples:
	for key, value := range s {
		if key != name && !strings.HasPrefix(key, name+"{") {
			continue
		}
		for _, p := range parts {
			if !strings.Contains(key, p) {
				continue samples
			}
		}
		total += value
	}
	return total
}

// othersDrops are the drops for size that the agent passed over because they are
// of other nodes on the kernel.
func othersDrops(s scraped) float64 {
	return s.sum("plumb_bpf_oversize_events_total", `cause="other_node"`)
}

// counterOf reads a counter of /proc/net/snmp in the network namespace of a
// process: protocol "Ip", "Udp"; name as the heading line has it.
func counterOf(b *testing.B, pid int, protocol, name string) uint64 {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/snmp", pid))
	require.NoError(b, err)
	var heading []string
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if fields[0] != protocol+":" {
			continue
		}
		if heading == nil {
			heading = fields
			continue
		}
		for i, h := range heading {
			if h == name {
				value, err := strconv.ParseUint(fields[i], 10, 64)
				require.NoError(b, err)
				return value
			}
		}
	}
	b.Fatalf("no counter %s %s", protocol, name)
	return 0
}
