// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/plumb-dev/plumb/internal/machine"
	"github.com/plumb-dev/plumb/internal/pki"
	"github.com/plumb-dev/plumb/test/lab/disk"
	"github.com/plumb-dev/plumb/test/lab/etcd"
	"github.com/plumb-dev/plumb/test/lab/podgroup"
	"github.com/plumb-dev/plumb/test/lab/rundir"
	"github.com/plumb-dev/plumb/test/lab/scenario"
	"github.com/plumb-dev/plumb/test/lab/service/apiserver"
)

// The lab's hidden programs, and what a disk is written down as.
const (
	diskRole      = "lab-disk"
	neighbourRole = "lab-neighbour"
	diskKind      = "disk"
	etcdMount     = "/run/etcd"
	// etcdLimit is how long a control plane may take to be healthy.
	etcdLimit = 60 * time.Second
)

// A member is what runs on one control-plane node.
type member struct {
	node  *node
	disk  *disk.Disk
	etcd  *etcd.Member
	load  *etcd.Load
	api   *apiserver.Server
	group *podgroup.Group
	// process is etcd's.
	process *machine.Process
}

func (m *member) crashed() error {
	if m.process == nil || m.process.Running() {
		return nil
	}
	return fmt.Errorf("etcd on %s ended by itself: %w: %s", m.node.Name(), m.process.Err(), lastLine(m.process.Output()))
}

// close ends etcd before its disk.
func (m *member) close(context.Context) error {
	var problems []error
	if m.load != nil {
		m.load.Stop()
	}
	if m.etcd != nil {
		// Killed, not asked: a disk that is slow would delay its last sync, and nobody
		// needs the data.
		m.process.Kill()
	}
	if m.disk != nil {
		problems = append(problems, m.disk.Stop())
	}
	return errors.Join(problems...)
}

// startControlPlane starts disk, etcd and API endpoint on every control-plane node.
func (c *cluster) startControlPlane(ctx context.Context) error {
	names := c.scenario.ControlPlaneNodes()
	if len(names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, etcdLimit, fmt.Errorf("the control plane was not healthy within %s", etcdLimit))
	defer cancel()
	var peers []etcd.Peer
	for _, name := range names {
		n := c.node(name)
		peers = append(peers, etcd.Peer{Name: name, Address: n.address})
		c.members[name] = &member{node: n}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, name := range names {
		group.Go(func() error { return c.startMember(groupCtx, c.members[name], peers) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, name := range names {
		m := c.members[name]
		if err := m.etcd.WaitHealthy(ctx); err != nil {
			return fmt.Errorf("start etcd on %s: %w", name, errors.Join(err, context.Cause(ctx)))
		}
		m.load = m.etcd.StartLoad(etcd.LoadConfig{OnPut: func(p etcd.Put) { c.onPut(name, p) }})
	}
	return c.startAPI(names)
}

func (c *cluster) startMember(ctx context.Context, m *member, peers []etcd.Peer) error {
	name := m.node.Name()
	cfg := disk.Config{Name: c.dir.ID + "-" + name, At: etcdMount}
	if err := c.dir.Own(diskKind, cfg.Name); err != nil {
		return err
	}
	var err error
	m.disk, err = disk.Start(ctx, cfg, func(args []string, onLine func([]byte)) (disk.Process, error) {
		p, err := c.startOn(m.node, machine.Spec{Name: "disk", Role: diskRole, Args: args, OnLine: onLine})
		return roleProcess{p}, err
	})
	if err != nil {
		return err
	}
	if err := c.dir.Own(diskKind, m.disk.Record()); err != nil {
		return err
	}
	if m.group, err = podgroup.New(cgroupRoot, c.dir); err != nil {
		return err
	}
	m.etcd, err = etcd.Start(etcd.Config{
		Program: c.programs[etcdProgram], Name: name, Peers: peers, Token: c.dir.ID, DataDir: etcdMount + "/data",
	}, func(args, env []string) (etcd.Process, error) {
		process, err := c.startInGroup(m.node, m.group, machine.Spec{Name: "etcd", Args: args, Env: env})
		m.process = process
		return process, err
	}, m.node.DialContext(""))
	return err
}

// startInGroup starts something in a pod's cgroup: a shell joins it and becomes the
// command.
func (c *cluster) startInGroup(n *node, group *podgroup.Group, spec machine.Spec) (*machine.Process, error) {
	files, err := group.Open()
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	script := ""
	for i := range files {
		script += fmt.Sprintf("echo 0 >&%d && exec %d>&- && ", 3+i, 3+i)
	}
	spec.Files = files
	spec.Wrap = []string{"sh", "-c", script + `exec "$@"`, "sh"}
	return c.startOn(n, spec)
}

// startOn starts something on a node, with a log of its own.
func (c *cluster) startOn(n *node, spec machine.Spec) (*machine.Process, error) {
	var err error
	if spec.Log, err = c.log(spec.Name + "-" + n.Name()); err != nil {
		return nil, err
	}
	return n.Start(spec)
}

// A roleProcess ends in order at the end of its input.
type roleProcess struct{ *machine.Process }

// Stop ends the input, sends SIGTERM, waits, and kills after the limit.
func (p roleProcess) Stop(limit time.Duration) error {
	if !p.Running() {
		return p.Err()
	}
	if err := p.CloseInput(); err != nil {
		return err
	}
	return p.Process.Stop(limit)
}

// startAPI starts the TLS endpoint of every control-plane node.
func (c *cluster) startAPI(names []string) error {
	hosts := []string{"kubernetes", "localhost"}
	for _, name := range names {
		hosts = append(hosts, c.node(name).address.String())
	}
	files, err := pki.Create(c.dir.File("apiserver"), pki.Options{Hosts: hosts})
	if err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return fmt.Errorf("read the API endpoint's certificate: %w", err)
	}
	for _, name := range names {
		m := c.members[name]
		server, err := apiserver.New(apiserver.Config{Certificate: cert, Now: time.Now})
		if err != nil {
			return err
		}
		m.api = server
		listener, err := m.node.Listen("", "tcp", netip.AddrPortFrom(m.node.address, apiserverPort).String())
		if err != nil {
			return fmt.Errorf("start the API endpoint of %s: %w", name, err)
		}
		c.serve("API endpoint of "+name, func(ctx context.Context) error { return server.Serve(ctx, listener) })
	}
	return nil
}

// slowDisk makes the disk of a control-plane node slow, caps it, or gives it a
// neighbour that writes to it as fast as it can.
func (c *cluster) slowDisk(ctx context.Context, _ int, f scenario.Fault, n *node, back *undos) error {
	m := c.members[n.Name()]
	settings := disk.Settings{Fsync: f.Fsync, IOPS: f.IOPS}
	if f.Neighbour && f.IOPS == 0 {
		// A disk in memory has room for both; a neighbour hurts where there is a limit.
		settings.IOPS = sharedIOPS
	}
	if err := m.disk.Set(ctx, settings); err != nil {
		return err
	}
	back.add(func(ctx context.Context) error { return m.disk.Set(ctx, disk.Settings{}) })
	if !f.Neighbour {
		return nil
	}
	group, err := podgroup.New(cgroupRoot, c.dir)
	if err != nil {
		return err
	}
	neighbour, err := disk.StartNeighbour(ctx, disk.NeighbourConfig{Dir: etcdMount + "/neighbour", Rate: neighbourRate},
		func(args []string, onLine func([]byte)) (disk.Process, error) {
			p, err := c.startInGroup(n, group, machine.Spec{Name: "neighbour", Role: neighbourRole, Args: args, OnLine: onLine})
			return roleProcess{p}, err
		})
	if err != nil {
		return err
	}
	back.add(func(ctx context.Context) error {
		// Its last writes would wait on the slow disk.
		return errors.Join(m.disk.Set(ctx, disk.Settings{}), neighbour.Stop())
	})
	return nil
}

// neighbourRate is what the noisy neighbour writes and syncs a second: more than a
// cloud's small volume takes (gp3 has 3,000 IOPS), so the disk is never idle.
const neighbourRate = 5000

// sharedIOPS is what a disk with a neighbour does in all unless the scenario says:
// alone on it an fdatasync takes 4 ms, with the neighbour 11 (measured in disk).
const sharedIOPS = 1000

// starveEtcd takes CPU time from etcd, and nothing from its disk.
func (c *cluster) starveEtcd(_ context.Context, _ int, _ scenario.Fault, n *node, back *undos) error {
	m := c.members[n.Name()]
	starved, err := etcd.Starve(m.etcd, m.group.CPU())
	if err != nil {
		return err
	}
	back.add(func(context.Context) error { return starved.Stop() })
	return nil
}

// removeDisk is the janitor's: by the name that stood before the disk was made, or
// by what was known of it afterwards.
func removeDisk(detail json.RawMessage) error {
	var record disk.Record
	var name string
	if json.Unmarshal(detail, &name) == nil {
		record.Name = name
	} else if err := json.Unmarshal(detail, &record); err != nil {
		return fmt.Errorf("remove a disk: %w", err)
	}
	return disk.Cleanup(record)
}

// removers know everything that a run owns outside of its namespaces.
func removers() map[string]rundir.Remover {
	return map[string]rundir.Remover{podgroup.Kind: podgroup.Remover, diskKind: removeDisk}
}

// SweepDead cleans up after runs that were killed, and returns how many there were.
func SweepDead() (int, error) {
	temp, err := tempDir()
	if err != nil {
		return 0, err
	}
	return rundir.Sweep(temp, removers())
}
