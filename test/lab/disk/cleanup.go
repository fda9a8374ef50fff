// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cleanupLimit is how long a loop device may take to detach once everything that
// held it is gone.
const cleanupLimit = 5 * time.Second

// Cleanup takes away what is left of a disk whose run could not do so itself, in the
// order that lets nothing wait forever: it aborts the FUSE connection, which ends
// every request with an error, then unmounts, then detaches the loop device.
//
// Numbers of loop devices and of connections are used again, so those of the record
// alone prove nothing. A device is this disk's when it carries the disk's name
// (lo_file_name), a connection when that device's file lies on it or when its mount
// carries the name. What is not this disk's is not touched, and is no error: then
// nothing was left of it. The disk of a run that is still alive is ended too. It
// needs root.
func Cleanup(r Record) error {
	if r.Name == "" {
		return errors.New("clean up after a disk: the record has no name")
	}
	left, err := findRemains(r.Name)
	if err == nil {
		err = left.remove(r)
	}
	if err != nil {
		return fmt.Errorf("clean up after disk %s: %w", r.Name, err)
	}
	return nil
}

// remains are what the kernel still has of a disk.
type remains struct {
	name string
	// loops are the numbers of its loop devices, connections those of FUSE.
	loops, connections map[uint32]bool
	mounts             []mount
}

func findRemains(name string) (*remains, error) {
	out := &remains{name: name, loops: map[uint32]bool{}, connections: map[uint32]bool{}}
	named, err := namedLoops(name)
	if err != nil {
		return nil, err
	}
	for number, info := range named {
		out.loops[uint32(number)] = true
		// The file's device is the FUSE file system, of which the device holds the file
		// open: so its number cannot be another's.
		if unix.Major(info.Device) == 0 {
			out.connections[unix.Minor(info.Device)] = true
		}
	}
	all, err := everyMount()
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		switch {
		case m.kind == "fuse."+fuseType && m.source == name:
			out.connections[m.minor] = true
		case m.major != loopMajor || !out.loops[m.minor]:
			continue
		}
		out.mounts = append(out.mounts, m)
	}
	return out, nil
}

func (left *remains) remove(r Record) error {
	if err := abortConnections(left.connections); err != nil {
		return err
	}
	for _, m := range left.mounts {
		err := inMountNamespace(filepath.Join("/proc", m.proc, "ns/mnt"), func() error {
			return unix.Unmount(m.point, unix.MNT_DETACH)
		})
		// Its process, or the mount, may have ended with the connection.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unmount %s of process %s: %w", m.point, m.proc, err)
		}
	}
	for loop := range left.loops {
		if err := left.detach(int(loop)); err != nil {
			return err
		}
	}
	if number, err := strconv.Atoi(strings.TrimPrefix(r.Loop, "loop")); r.Added && err == nil && !loopAttached(number) {
		return removeLoop(number)
	}
	return nil
}

// detach waits until the device has detached itself, and else detaches it.
func (left *remains) detach(number int) error {
	gone := func() bool {
		named, err := namedLoops(left.name)
		_, attached := named[number]
		return err == nil && !attached
	}
	if until(cleanupLimit/5, gone) {
		return nil
	}
	err := withLoop(number, func(fd int) error { return unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0) })
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach: %w", err)
	}
	if !until(cleanupLimit, gone) {
		return fmt.Errorf("detach %s: a process still uses it; end the processes of that run first", loopName(number))
	}
	return nil
}

// abortConnections ends FUSE connections through fusectl, mounted for this purpose
// where nobody else sees it.
func abortConnections(numbers map[uint32]bool) error {
	if len(numbers) == 0 {
		return nil
	}
	const fusectl = "/sys/fs/fuse/connections"
	return inMountNamespace("", func() error {
		if err := unix.Mount("fusectl", fusectl, "fusectl", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount fusectl: %w", err)
		}
		for number := range numbers {
			// O_WRONLY alone: fusectl knows no truncation.
			file, err := os.OpenFile(filepath.Join(fusectl, strconv.Itoa(int(number)), "abort"), os.O_WRONLY, 0)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it has ended
			}
			if err != nil {
				return fmt.Errorf("abort FUSE connection %d: %w", number, err)
			}
			_, err = file.WriteString("1")
			if err := errors.Join(err, file.Close()); err != nil {
				return fmt.Errorf("abort FUSE connection %d: %w", number, err)
			}
		}
		return nil
	})
}
