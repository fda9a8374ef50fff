// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// serveArgument is the first argument of the process that serves; the role starts
// itself again with it.
const serveArgument = "serve"

// endLimit bounds each step of taking a disk down in order. After it the server is
// killed, and the kernel ends whatever waits for it.
const endLimit = 5 * time.Second

// Role is a disk's process inside a node: Config.Args are its arguments. It writes
// {"ready":…} (a Record) once the file system is mounted, takes Settings as lines
// of JSON, and answers each with {"applied":…} or {"error":…}; {"stats":true} is
// answered with {"stats":…}. With the end of its input, SIGTERM or SIGINT it takes
// everything down again. When its server dies it does so too, and fails.
func Role(args []string) error {
	if len(args) > 0 && args[0] == serveArgument {
		cfg, err := parseConfig(args[1:])
		if err != nil {
			return err
		}
		// What ends the disk is said to the role, which first takes down what is above.
		signal.Ignore(unix.SIGTERM, unix.SIGINT)
		return serve(cfg, os.Stdin, os.Stdout)
	}
	cfg, err := parseConfig(args)
	if err != nil {
		return err
	}
	// The server dies with the thread that started it (PR_SET_PDEATHSIG); the main
	// thread lives as long as the process.
	runtime.LockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	c := &controller{cfg: cfg, out: json.NewEncoder(os.Stdout)}
	err = c.setUp()
	if err == nil {
		err = c.run(readLines(os.Stdin), signals)
	}
	return errors.Join(err, c.takeDown())
}

// A controller makes a disk, forwards settings to its server, and takes it down. It
// is a process apart from the server, because it waits for the disk.
type controller struct {
	cfg Config
	out *json.Encoder

	server *exec.Cmd
	input  io.WriteCloser
	events <-chan []byte
	// ended is closed when the server has ended; how is in endErr.
	ended  chan struct{}
	endErr error

	record  Record
	mounted bool
	made    []string
}

func (c *controller) setUp() error {
	for _, path := range []string{c.cfg.At, c.cfg.Backing} {
		made, err := makeDirectory(path)
		if err != nil {
			return fmt.Errorf("disk %s: %w", c.cfg.Name, err)
		}
		if made {
			c.made = append(c.made, path)
		}
	}
	if err := c.startServer(); err != nil {
		return fmt.Errorf("disk %s: %w", c.cfg.Name, err)
	}
	if err := c.build(); err != nil {
		return fmt.Errorf("disk %s: %w", c.cfg.Name, err)
	}
	return nil
}

// serverEnded waits for the server's end and says how it was.
func (c *controller) serverEnded() error {
	<-c.ended
	if c.endErr != nil {
		return fmt.Errorf("disk %s: its FUSE server ended: %w", c.cfg.Name, c.endErr)
	}
	return fmt.Errorf("disk %s: its FUSE server ended, as if its mount were gone", c.cfg.Name)
}

func (c *controller) startServer() error {
	cmd := exec.Command("/proc/self/exe", append([]string{serveArgument}, c.cfg.Args()...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	if c.input, err = cmd.StdinPipe(); err != nil {
		return fmt.Errorf("start FUSE server: %w", err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start FUSE server: %w", err)
	}
	cmd.Stdout = writer
	err = cmd.Start()
	writer.Close()
	if err != nil {
		reader.Close()
		return fmt.Errorf("start FUSE server: %w", err)
	}
	c.server, c.ended, c.events = cmd, make(chan struct{}), readLines(bufio.NewReader(reader))
	go func() {
		c.endErr = cmd.Wait()
		close(c.ended)
	}()
	line, more := <-c.events
	if !more {
		return c.serverEnded()
	}
	if e, err := parseEvent(line); err != nil || !e.Serving {
		return fmt.Errorf("start FUSE server: it said %q", line)
	}
	return nil
}

// build makes the loop device, the file system and its mount, in this order.
func (c *controller) build() error {
	connection, err := fuseConnection(c.cfg)
	if err != nil {
		return err
	}
	backing := filepath.Join(c.cfg.Backing, fileName)
	c.record = Record{Name: c.cfg.Name, Backing: backing, FUSE: connection, Server: c.server.Process.Pid}
	file, err := unix.Open(backing, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", backing, err)
	}
	// The device has its own reference; ours would keep the mount busy.
	device, err := attachLoop(file, c.cfg.Name, filepath.Dir(c.cfg.Backing))
	_ = unix.Close(file)
	if err != nil {
		return err
	}
	c.record.Loop, c.record.Added = loopName(device.number), device.added
	defer device.close()
	if device.path != filepath.Join("/dev", loopName(device.number)) {
		defer os.Remove(device.path)
	}
	if err := makeExt4(device.path); err != nil {
		return err
	}
	if err := mountExt4(device.path, c.cfg.At); err != nil {
		return err
	}
	c.mounted = true
	return nil
}

// fuseConnection finds the number of the connection: the minor number of the mount's
// device (fuse_conn_init names it so in fusectl). It asks the list of mounts, not
// the mount.
func fuseConnection(cfg Config) (uint32, error) {
	all, err := mounts("self")
	if err != nil {
		return 0, fmt.Errorf("list mounts: %w", err)
	}
	for _, m := range all {
		if m.point == cfg.Backing && m.source == cfg.Name && m.kind == "fuse."+fuseType {
			return m.minor, nil
		}
	}
	return 0, fmt.Errorf("find the FUSE mount at %s: it is not among this process's mounts", cfg.Backing)
}

// run forwards lines to the server, and its answers back.
func (c *controller) run(lines <-chan []byte, signals <-chan os.Signal) error {
	if err := c.out.Encode(event{Ready: &c.record}); err != nil {
		return fmt.Errorf("disk %s: report: %w", c.cfg.Name, err)
	}
	for {
		select {
		case <-signals:
			return nil
		case <-c.ended:
			return c.serverEnded()
		case line, more := <-lines:
			if !more {
				return nil
			}
			if _, err := c.input.Write(append(line, '\n')); err != nil {
				return c.serverEnded()
			}
		case line, more := <-c.events:
			if !more {
				return c.serverEnded()
			}
			if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
				return fmt.Errorf("disk %s: report: %w", c.cfg.Name, err)
			}
		}
	}
}

// takeDown undoes everything that setUp has done, from whatever point it came to.
func (c *controller) takeDown() error {
	var problems []error
	if c.server != nil {
		// A slow disk would take as long to unmount; answers are not of interest.
		_, _ = c.input.Write([]byte(`{}` + "\n"))
		go func() {
			for range c.events {
			}
		}()
	}
	if c.mounted {
		problems = append(problems, c.orKill("unmount "+c.cfg.At, func() error { return unmount(c.cfg.At) }))
	}
	if c.record.Loop != "" {
		number, _ := strconv.Atoi(strings.TrimPrefix(c.record.Loop, "loop"))
		problems = append(problems, c.orKill("detach "+c.record.Loop, func() error { return waitDetached(number, c.cfg.Name, endLimit/2) }))
		if c.record.Added {
			problems = append(problems, removeLoop(number))
		}
	}
	if c.server != nil {
		problems = append(problems, unmount(c.cfg.Backing))
		_ = c.input.Close()
		timer := time.NewTimer(endLimit)
		defer timer.Stop()
		select {
		case <-c.ended:
		case <-timer.C:
			c.killServer()
		}
	}
	for _, path := range c.made {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			problems = append(problems, fmt.Errorf("remove mount point: %w", err))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("take disk %s down: %w", c.cfg.Name, err)
	}
	return nil
}

// orKill does a step that may wait for the disk. If it takes too long the server is
// killed: then the kernel ends every request, and the step with it.
func (c *controller) orKill(what string, step func() error) error {
	done := make(chan error, 1)
	go func() { done <- step() }()
	timer := time.NewTimer(endLimit)
	defer timer.Stop()
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
		c.killServer()
		return err
	case <-timer.C:
	}
	c.killServer()
	return errors.Join(fmt.Errorf("%s: not done within %s; its FUSE server was killed", what, endLimit), <-done)
}

func (c *controller) killServer() {
	_ = c.server.Process.Kill()
	<-c.ended
}
