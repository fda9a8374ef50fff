// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"os/exec"
	"runtime"
)

// A spawner starts commands from one thread that lives as long as they do.
// PR_SET_PDEATHSIG is about the thread that forked (prctl(2)), and threads of a Go
// program do end: one does with each goroutine that ends locked to it, and it may
// be one that has forked before.
type spawner struct {
	commands chan *exec.Cmd
	started  chan error
}

func newSpawner() *spawner {
	s := &spawner{commands: make(chan *exec.Cmd), started: make(chan error)}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for cmd := range s.commands {
			s.started <- cmd.Start()
		}
	}()
	return s
}

// start is not for concurrent use: the machine's lock, or its constructor, orders
// the calls.
func (s *spawner) start(cmd *exec.Cmd) error {
	s.commands <- cmd
	return <-s.started
}

func (s *spawner) close() { close(s.commands) }
