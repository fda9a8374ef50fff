// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// fuseType is the mount's type, fuse.plumb-disk.
	fuseType = "plumb-disk"

	// requestBytes is the largest request, 256 KiB: what a cloud volume counts as one
	// I/O operation (Amazon EBS, "I/O characteristics", for SSD volumes).
	requestBytes = 256 << 10
)

// serve is the process that answers for the disk. It never touches what is on top
// of its own file system: a thread of it that waited there could not be killed, its
// /dev/fuse would stay open, and the wait would never end. Killed, it is gone at
// once, and the kernel aborts the connection with the last descriptor of it.
//
// It ends when its input ends or the file system is unmounted.
func serve(cfg Config, in io.Reader, out io.Writer) error {
	content, err := newMemory(cfg.SizeBytes)
	if err != nil {
		return fmt.Errorf("serve disk %s: %w", cfg.Name, err)
	}
	files := newFilesystem(content)
	server, err := mountFUSE(cfg, files)
	if err != nil {
		return fmt.Errorf("serve disk %s: %w", cfg.Name, err)
	}
	events := json.NewEncoder(out)
	unmounted := make(chan struct{})
	go func() {
		server.Serve()
		close(unmounted)
	}()
	if err := events.Encode(event{Serving: true}); err != nil {
		return fmt.Errorf("serve disk %s: report: %w", cfg.Name, err)
	}
	lines := readLines(in)
	for {
		select {
		case <-unmounted:
			return nil
		case line, more := <-lines:
			if !more {
				return nil
			}
			if err := events.Encode(files.command(line)); err != nil {
				return fmt.Errorf("serve disk %s: report: %w", cfg.Name, err)
			}
		}
	}
}

// command does what one line asks and returns the answer to it.
func (f *filesystem) command(line []byte) event {
	if string(line) == askStats {
		stats := f.stats()
		return event{Stats: &stats}
	}
	var settings Settings
	if err := strict(line, &settings); err != nil {
		return event{Error: fmt.Sprintf("settings %s: %v; a line is like {\"fsync\":\"5ms\",\"iops\":100}", line, err)}
	}
	f.throttle.set(settings)
	return event{Applied: &settings}
}

// readLines gives the lines of r; the channel is closed with its end.
func readLines(r io.Reader) <-chan []byte {
	lines := make(chan []byte)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(r)
		for scanner.Scan() {
			lines <- append([]byte(nil), scanner.Bytes()...)
		}
	}()
	return lines
}

// mountFUSE mounts the file system at cfg.Backing without fusermount.
func mountFUSE(cfg Config, files *filesystem) (*fuse.Server, error) {
	// Close-on-exec, or a child of this process would keep the connection alive.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w (the kernel needs CONFIG_FUSE_FS)", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0,max_read=%d", fd, unix.S_IFDIR, requestBytes)
	if err := unix.Mount(cfg.Name, cfg.Backing, "fuse."+fuseType, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("mount FUSE at %s: %w", cfg.Backing, err)
	}
	// The server is given a descriptor that is mounted already; then it does not
	// mount, and never unmounts.
	server, err := fuse.NewServer(files, fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{
		MaxWrite:      requestBytes,
		DisableXAttrs: true,
		Logger:        log.New(os.Stderr, "", 0),
	})
	if err != nil {
		_ = unix.Close(fd)
		_ = unix.Unmount(cfg.Backing, unix.MNT_DETACH)
		return nil, fmt.Errorf("begin FUSE at %s: %w", cfg.Backing, err)
	}
	return server, nil
}
