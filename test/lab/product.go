// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/machine"
)

const (
	apiAddress     = "127.0.0.1:9952"
	aggMetrics     = "127.0.0.1:9953"
	agentMetrics   = "127.0.0.1:9950"
	clusterName    = "lab"
	requestTimeout = 5 * time.Second
	// readyLimit bounds the start of one process; it takes a second or two.
	readyLimit = 60 * time.Second
	pollEvery  = 50 * time.Millisecond
)

// The programs of the product, as `make build` names them. labAgent is the agent
// whose clock a file sets.
const (
	agentProgram      = "plumb-agent"
	labAgentProgram   = "plumb-agent-plumblab"
	aggregatorProgram = "plumb-aggregator"
	etcdProgram       = "etcd"
)

// A daemon is one process of the product, which faults kill, freeze and start
// again. Its methods are safe for concurrent use.
type daemon struct {
	machine *machine.Machine
	spec    machine.Spec
	// healthURL answers 200 when it runs.
	healthURL string
	http      *http.Client

	mu      sync.Mutex
	process *machine.Process
	// down says that it is meant not to run, wasDown that it once was.
	down, wasDown bool
	// past is what earlier processes of it used.
	past  time.Duration
	since time.Duration
	peak  int64
}

// usage is what processes took.
type usage struct {
	cpu         time.Duration
	maxRSSBytes int64
}

// start starts the process and waits until it answers.
func (d *daemon) start(ctx context.Context) error {
	p, err := d.machine.Start(d.spec)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.process, d.down = p, false
	d.mu.Unlock()
	return d.waitHealthy(ctx)
}

func (d *daemon) waitHealthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("it did not answer within %s", readyLimit))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	p := d.current()
	for {
		if _, err := d.get(ctx, d.healthURL); err == nil {
			return nil
		}
		select {
		case <-p.Done():
			return fmt.Errorf("start %s on %s: it ended: %w: %s", p.Name(), d.machine.Name(), p.Err(), lastLine(p.Output()))
		case <-ctx.Done():
			return fmt.Errorf("start %s on %s: %w", p.Name(), d.machine.Name(), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func (d *daemon) current() *machine.Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.process
}

// get asks the process over HTTP from inside its machine.
func (d *daemon) get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := d.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: status %s", url, response.Status)
	}
	return body, nil
}

// httpInside is a client whose connections begin in a machine.
func httpInside(m *machine.Machine) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: m.DialContext(""), MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute}}
}

// kill is kill -9; the daemon stays down until start.
func (d *daemon) kill() {
	d.mu.Lock()
	p := d.process
	d.down, d.wasDown = true, true
	d.mu.Unlock()
	if p == nil {
		return
	}
	d.sample()
	p.Kill()
	d.account(p)
}

// signal freezes and thaws.
func (d *daemon) signal(s unix.Signal) error { return d.current().Signal(s) }

// crashed says how the process ended although nothing made it; nil when it runs.
func (d *daemon) crashed() error {
	d.mu.Lock()
	p, down := d.process, d.down
	d.mu.Unlock()
	if down || p == nil || p.Running() {
		return nil
	}
	return fmt.Errorf("%s on %s ended by itself: %w: %s", p.Name(), d.machine.Name(), p.Err(), lastLine(p.Output()))
}

// sample reads what the running process has used so far.
func (d *daemon) sample() {
	p := d.current()
	if p == nil {
		return
	}
	u, err := readUsage(p.PID())
	if err != nil {
		return // it has ended; Wait tells then
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// A fault may have ended it meanwhile, and then it is accounted for.
	if d.process == p {
		d.since = u.cpu
		d.peak = max(d.peak, u.maxRSSBytes)
	}
}

func (d *daemon) account(p *machine.Process) {
	// The peak of memory is only known from samples: what wait4(2) tells begins with
	// the memory of the lab, which forked it (exec_mmap in fs/exec.c).
	d.mu.Lock()
	defer d.mu.Unlock()
	d.past += max(p.CPU(), d.since)
	d.since = 0
	d.process = nil
}

// used is what the daemon used in all.
func (d *daemon) used() usage {
	d.sample()
	d.mu.Lock()
	defer d.mu.Unlock()
	return usage{cpu: d.past + d.since, maxRSSBytes: d.peak}
}

func lastLine(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return lines[len(lines)-1]
}

// A MissingError says that a program is not where it is looked for.
type MissingError struct {
	Program string
	Dirs    []string
}

// Error is one line.
func (e *MissingError) Error() string {
	return fmt.Sprintf("find %s: it is in none of %s; run `make build`, or name its directory with --bin", e.Program, strings.Join(e.Dirs, ", "))
}

// find returns the path of a program.
func find(dirs []string, program string) (string, error) {
	for _, dir := range dirs {
		path, err := filepath.Abs(filepath.Join(dir, program))
		if err != nil {
			continue
		}
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", &MissingError{Program: program, Dirs: dirs}
}

// credentials has the aggregator make CA, certificate, nodes file and tokens, as an
// operator would.
func credentials(ctx context.Context, program, dir string, hosts []string, nodes []*node) error {
	args := []string{"init", dir, "--cluster", clusterName}
	for _, h := range hosts {
		args = append(args, "--host", h)
	}
	for _, n := range nodes {
		value := n.Name() + "=" + n.uid
		for _, label := range [][2]string{{"zone", n.spec.Zone}, {"pool", n.spec.Pool}, {"instanceType", n.spec.InstanceType}, {"kernel", n.spec.Kernel}, {"image", n.spec.Image}} {
			if label[1] != "" {
				value += "," + label[0] + "=" + label[1]
			}
		}
		args = append(args, "--node", value)
	}
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the cluster's keys: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// readUsage reads CPU time and the peak of resident memory of a process.
func readUsage(pid int) (usage, error) {
	if pid == 0 {
		return usage{}, errors.New("read usage: no process")
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return usage{}, err
	}
	return parseUsage(string(stat), string(status))
}

// parseUsage takes utime and stime, fields 14 and 15 in ticks of 10 ms (USER_HZ is
// 100 on every architecture that Kubernetes runs on), and VmHWM (proc(5)).
func parseUsage(stat, status string) (usage, error) {
	// The name, field 2, may hold spaces and parentheses.
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return usage{}, errors.New("read usage: stat has no name")
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 13 {
		return usage{}, errors.New("read usage: stat is too short")
	}
	var user, system int64
	if _, err := fmt.Sscan(fields[11], &user); err != nil {
		return usage{}, fmt.Errorf("read usage: utime: %w", err)
	}
	if _, err := fmt.Sscan(fields[12], &system); err != nil {
		return usage{}, fmt.Errorf("read usage: stime: %w", err)
	}
	u := usage{cpu: time.Duration(user+system) * 10 * time.Millisecond}
	for _, line := range strings.Split(status, "\n") {
		value, found := strings.CutPrefix(line, "VmHWM:")
		if !found {
			continue
		}
		var kib int64
		if _, err := fmt.Sscan(value, &kib); err != nil {
			return usage{}, fmt.Errorf("read usage: VmHWM: %w", err)
		}
		u.maxRSSBytes = kib << 10
	}
	return u, nil
}
