// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/test/lab/judge"
	"github.com/plumb-dev/plumb/test/lab/report"
	"github.com/plumb-dev/plumb/test/lab/rundir"
	"github.com/plumb-dev/plumb/test/lab/scenario"
	"github.com/plumb-dev/plumb/test/lab/service/metadata"
)

// Options say how to run a scenario. Scenario, BinDirs and Timeline are required.
type Options struct {
	Scenario *scenario.Scenario
	// BinDirs are where the product's programs are looked for, in this order.
	BinDirs []string
	// Timeout ends the whole run, the start of the cluster included; 0 is never.
	Timeout time.Duration
	// Timeline is told what happens.
	Timeline *report.Timeline
	// FailFast ends a pending scenario as soon as it has failed.
	FailFast bool
	// Keep is called when all is decided and before the cluster is taken down, which
	// waits for it; nil takes it down at once.
	Keep func(ctx context.Context, where []Place)
}

// A Place is a machine of the cluster, for a person who wants to look into it.
type Place struct {
	Name string
	// PID is of its first process: nsenter -t PID -a enters.
	PID int
}

// An UnusableError says that this scenario cannot be run on this machine: nothing
// was learned of the product.
type UnusableError struct{ Err error }

// Error is one line.
func (e *UnusableError) Error() string {
	return strings.Join(strings.Fields(strings.ReplaceAll(e.Err.Error(), "\n", "; ")), " ")
}

// Unwrap returns why.
func (e *UnusableError) Unwrap() error { return e.Err }

const (
	// tick is how often the run looks around.
	tick = 50 * time.Millisecond
	// closeLimit bounds taking the cluster down.
	closeLimit = 60 * time.Second
	// lostLimit is how long lists of verdicts may be missing at the end of a run
	// before it ends without them.
	lostLimit = 5 * time.Second
)

// errTimeout ends a run by its own time limit.
var errTimeout = errors.New("the run's time is over")

// Run runs a scenario and returns what it is worth. Its error is an UnusableError,
// or says that something was left behind. When ctx ends the run is cut short; the
// result says so.
func Run(ctx context.Context, opts Options) (result report.Result, err error) {
	began := time.Now()
	s := opts.Scenario
	opts.Timeline.Begin(began, s)
	if err := usable(s); err != nil {
		return report.Result{}, &UnusableError{err}
	}
	programs, err := programsOf(s, opts.BinDirs)
	if err != nil {
		return report.Result{}, &UnusableError{err}
	}
	if n, err := SweepDead(); err != nil {
		opts.Timeline.Note(time.Now(), "a dead run could not be cleaned up: "+(&UnusableError{err}).Error())
	} else if n > 0 {
		opts.Timeline.Note(time.Now(), fmt.Sprintf("cleaned up after %d dead run(s)", n))
	}
	temp, err := tempDir()
	if err != nil {
		return report.Result{}, &UnusableError{err}
	}
	dir, err := rundir.New(temp)
	if err != nil {
		return report.Result{}, &UnusableError{err}
	}
	run, cancel := ctx, context.CancelFunc(func() {})
	if opts.Timeout > 0 {
		run, cancel = context.WithTimeoutCause(ctx, opts.Timeout, errTimeout)
	}
	defer cancel()
	r := &runner{opts: opts, scenario: s, began: began, observation: judge.Observation{Faults: make([]judge.Fault, len(s.Faults)), History: &judge.History{}}}
	defer func() {
		if problem := dir.Remove(removers()); problem != nil {
			err = errors.Join(err, fmt.Errorf("left behind, for the next run to clean up: %w", problem))
		}
	}()
	r.cluster, err = newCluster(run, s, dir, programs)
	if err != nil {
		return r.notStarted(run, err)
	}
	defer func() {
		if problem := closeWithin(closeLimit, r.cluster); problem != nil {
			err = errors.Join(err, problem)
		}
	}()
	if err := r.play(run); err != nil {
		return report.Result{}, &UnusableError{err}
	}
	result = r.result()
	opts.Timeline.Result(time.Now(), result)
	if opts.Keep != nil && ctx.Err() == nil {
		opts.Keep(ctx, r.cluster.places())
	}
	return result, nil
}

// closeWithin takes a cluster down, and lets go of it when that takes too long: with
// this process its namespaces end all the same, and the next run removes the rest.
func closeWithin(limit time.Duration, c *cluster) error {
	done := make(chan error, 1)
	go func() { done <- c.close(context.Background()) }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("take the cluster down: not done within %s; the next run cleans up", limit)
	}
}

// tempDir is where runs are kept: absolute, and not below what every machine covers
// with a mount of its own.
func tempDir() (string, error) {
	temp, err := filepath.Abs(os.TempDir())
	if err != nil {
		return "", fmt.Errorf("find the temporary directory: %w", err)
	}
	for _, covered := range []string{"/run", "/proc", "/sys"} {
		if temp == covered || strings.HasPrefix(temp, covered+"/") {
			return "", fmt.Errorf("use the temporary directory %s: the lab's nodes have a %s of their own, so they would not see it; set TMPDIR to another, for example /tmp", temp, covered)
		}
	}
	return temp, nil
}

// notStarted tells apart a machine that cannot carry the cluster and a run that was
// cut short while it started.
func (r *runner) notStarted(run context.Context, err error) (report.Result, error) {
	if run.Err() == nil {
		return report.Result{}, &UnusableError{err}
	}
	r.observation.Ending = judge.Interrupted
	if errors.Is(context.Cause(run), errTimeout) {
		r.observation.Ending = judge.TimedOut
	}
	r.observation.Failures = append(r.observation.Failures, "the run ended before the cluster was up: "+(&UnusableError{err}).Error())
	result := r.result()
	r.opts.Timeline.Result(time.Now(), result)
	return result, nil
}

// usable says what this machine or the product lacks for a scenario.
func usable(s *scenario.Scenario) error {
	if os.Geteuid() != 0 {
		return errors.New("run the lab: namespaces need root; run it with sudo")
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return errors.New("run the lab: this kernel has no BTF (/sys/kernel/btf/vmlinux), which the agent and the fabric need; use one built with CONFIG_DEBUG_INFO_BTF, 5.10 or later")
	}
	if err := commands(s); err != nil {
		return err
	}
	if s.Objects != "" {
		return fmt.Errorf("%s: spec.objects: the aggregator takes no --objects yet, so what the Kubernetes API would show cannot be played; leave objects out", s.File)
	}
	for _, f := range s.Faults {
		if err := playable(s, f); err != nil {
			return fmt.Errorf("%s:%d:%d: %s: %w", s.File, f.Line, f.Column, f.Kind, err)
		}
	}
	return nil
}

// commands says which program of the machine is missing, and the Debian package
// that has it.
func commands(s *scenario.Scenario) error {
	wanted := [][2]string{{"ip", "iproute2"}, {"bridge", "iproute2"}, {"nsenter", "util-linux"}}
	if len(s.ControlPlaneNodes()) > 0 {
		wanted = append(wanted, [2]string{"mkfs.ext4", "e2fsprogs"})
	}
	if slices.ContainsFunc(s.Faults, func(f scenario.Fault) bool { return f.Kind == scenario.ICMPFilter || f.Kind == scenario.IMDS }) {
		wanted = append(wanted, [2]string{"nft", "nftables"})
	}
	for _, w := range wanted {
		if _, err := exec.LookPath(w[0]); err != nil {
			return fmt.Errorf("run the lab: the program %s is missing; on Debian or Ubuntu: apt-get install %s", w[0], w[1])
		}
	}
	return nil
}

// playable says why a fault that reads well cannot be played here.
func playable(s *scenario.Scenario, f scenario.Fault) error {
	switch {
	case f.Kind == scenario.IMDS && s.Cloud == scenario.NoCloud:
		return errors.New("cloud: none has no metadata server; name a cloud")
	case f.Kind == scenario.IMDS && f.Mode == string(metadata.HopLimit) && s.Cloud != scenario.AWS:
		return fmt.Errorf("only aws limits the hops of its metadata answers, the cloud is %s; set cloud: aws", s.Cloud)
	case f.Kind == scenario.TokenWrongNode && len(s.Nodes) < 2:
		return errors.New("a token of another node needs another node; add one")
	case (f.Kind == scenario.QUICProbes || f.Kind == scenario.TCPTeardownStorm) && len(s.Nodes) < 2:
		return errors.New("it needs a node to talk to; add one")
	}
	return nil
}

// kernel is the release of the machine's kernel.
func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}

func (c *cluster) places() []Place {
	var out []Place
	for _, n := range c.nodes {
		out = append(out, Place{Name: n.Name(), PID: n.PID()})
	}
	for _, d := range c.aggregators {
		out = append(out, Place{Name: d.machine.Name(), PID: d.machine.PID()})
	}
	return append(out, Place{Name: c.fabricMachine.Name(), PID: c.fabricMachine.PID()}, Place{Name: c.servicesMachine.Name(), PID: c.servicesMachine.PID()})
}
