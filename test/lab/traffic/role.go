// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"
)

// Sender is the role that runs all flows of a pod. Its arguments are the numbers of
// inherited file descriptors of cgroup.procs to join. It reads a SenderConfig from
// standard input, then Commands, each on a line, writes Events to standard output
// and ends at the end of its input, never because of the network.
func Sender(args []string) error { return role(args, send) }

// Receiver is the role that answers all flows to a pod, until the end of its input.
// It reads a ReceiverConfig, then Commands; arguments and output are as Sender's.
func Receiver(args []string) error { return role(args, receive) }

// memoryLimit is above what a pod of a few flows holds (1 to 3 MiB of heap) and has
// the collector work harder before the process grows.
const memoryLimit = 8 << 20

// role runs one of the two with what only a process of its own may set.
func role(args []string, run func(context.Context, io.Reader, io.Writer) error) error {
	for _, arg := range args {
		fd, err := strconv.Atoi(arg)
		if err != nil {
			return fmt.Errorf("argument %q is no number of a file descriptor of cgroup.procs", arg)
		}
		if err := JoinCgroup(fd); err != nil {
			return err
		}
	}
	// There are two processes per pod and many pods: one thread of Go code is enough
	// for each, and memory is dearer than time.
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(25)
	debug.SetMemoryLimit(memoryLimit)
	return run(context.Background(), os.Stdin, os.Stdout)
}

// JoinCgroup moves the process into the cgroup whose cgroup.procs is open for
// writing under the number, and closes it. Roles call it before all else, so that
// every socket is the cgroup's. "0" is the writing process (cgroups(7)).
func JoinCgroup(fd int) error {
	if fd < 3 {
		return fmt.Errorf("join a cgroup by file descriptor %d: it is a standard stream", fd)
	}
	file := os.NewFile(uintptr(fd), "cgroup.procs")
	_, err := file.WriteString("0")
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("join a cgroup by file descriptor %d: %w; hand down cgroup.procs open for writing", fd, err)
	}
	return nil
}

// lines are the lines of an input.
type lines struct{ *bufio.Scanner }

func newLines(in io.Reader) lines {
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	return lines{s}
}

// config reads the first line.
func (l lines) config(v any) error {
	if !l.Scan() {
		return fmt.Errorf("read the configuration: %w", errors.Join(io.ErrUnexpectedEOF, l.Err()))
	}
	if err := strict(l.Bytes(), v); err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	return nil
}

// commands hands every further line to apply, and answers it by an event, until
// the input ends.
func (l lines) commands(out *output, apply func(Command) error) error {
	for l.Scan() {
		if len(l.Bytes()) == 0 {
			continue
		}
		var c Command
		err := strict(l.Bytes(), &c)
		if err == nil {
			err = c.check()
		}
		if err == nil {
			err = apply(c)
		}
		if err != nil {
			out.put(Event{Type: Rejected, At: time.Now(), Detail: err.Error()})
			continue
		}
		out.put(Event{Type: Applied, At: time.Now(), Detail: c.String()})
	}
	if err := l.Err(); err != nil {
		return fmt.Errorf("read a command: %w", err)
	}
	return nil
}
