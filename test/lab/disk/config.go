// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// DefaultSizeBytes holds two preallocated segments of an etcd WAL (64 MiB each, the
// one in use and the next: SegmentSizeBytes of etcd's wal.go), its database, and
// the journal. Only what is written takes memory.
const DefaultSizeBytes = 256 << 20

// minSizeBytes is the least that mkfs.ext4 gives a journal on, with room.
const minSizeBytes = 16 << 20

// A Config says which disk to make. Paths are those inside the node.
type Config struct {
	// Name is unique on the machine, over every lab that runs or ran: a later run
	// knows by it what this one left. 1 to 63 bytes, without space or slash.
	Name string
	// At is where the ext4 file system is mounted, below a file system of the node's
	// own, as /run is. It is made when missing.
	At string
	// Backing is where the FUSE file system is mounted. "" is At + ".disk".
	Backing string
	// SizeBytes is the size of the disk, at least 16 MiB; 0 is DefaultSizeBytes.
	SizeBytes int64
}

func (c Config) complete() (Config, error) {
	if c.Name == "" || len(c.Name) > nameLimit || strings.ContainsAny(c.Name, "/ \t\n,\\") {
		return c, fmt.Errorf("disk name %q: it must have 1 to %d bytes, and no space, comma or slash", c.Name, nameLimit)
	}
	if c.SizeBytes == 0 {
		c.SizeBytes = DefaultSizeBytes
	}
	if c.SizeBytes < minSizeBytes || c.SizeBytes%pageBytes != 0 {
		return c, fmt.Errorf("disk %s: size is %d bytes; it must be a multiple of %d and at least %d", c.Name, c.SizeBytes, pageBytes, minSizeBytes)
	}
	if c.Backing == "" && c.At != "" {
		c.Backing = filepath.Clean(c.At) + ".disk"
	}
	if !filepath.IsAbs(c.At) || !filepath.IsAbs(c.Backing) {
		return c, fmt.Errorf("disk %s: mount points %q and %q must be absolute paths", c.Name, c.At, c.Backing)
	}
	c.At, c.Backing = filepath.Clean(c.At), filepath.Clean(c.Backing)
	if c.Backing == c.At || strings.HasPrefix(c.Backing, c.At+"/") {
		return c, fmt.Errorf("disk %s: %s would be hidden by the mount at %s", c.Name, c.Backing, c.At)
	}
	return c, nil
}

// Args are the arguments of Role for this disk.
func (c Config) Args() []string {
	return []string{"-name", c.Name, "-at", c.At, "-backing", c.Backing, fmt.Sprintf("-size=%d", c.SizeBytes)}
}

func parseConfig(args []string) (Config, error) {
	var c Config
	flags := flag.NewFlagSet("disk", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.Name, "name", "", "")
	flags.StringVar(&c.At, "at", "", "")
	flags.StringVar(&c.Backing, "backing", "", "")
	flags.Int64Var(&c.SizeBytes, "size", 0, "")
	if err := flags.Parse(args); err != nil {
		return c, err
	}
	if flags.NArg() > 0 {
		return c, fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	return c.complete()
}

// A Record is what has to be remembered of a disk, so that Cleanup can take away
// what a run left that could not do so itself.
type Record struct {
	// Name is the disk's.
	Name string `json:"name"`
	// Loop is the device, as "loop3".
	Loop string `json:"loop"`
	// Backing is the disk's file as the node's mount namespace names it.
	Backing string `json:"backing"`
	// FUSE is the connection's number in /sys/fs/fuse/connections.
	FUSE uint32 `json:"fuse"`
	// Added: the kernel added the loop device for this disk, having none free.
	Added bool `json:"added,omitempty"`
	// Server is the FUSE server's process in the node's PID namespace.
	Server int `json:"server,omitempty"`
}

// An event is one line that a role writes; exactly one field is set.
type event struct {
	Serving   bool            `json:"serving,omitempty"`
	Ready     *Record         `json:"ready,omitempty"`
	Applied   *Settings       `json:"applied,omitempty"`
	Stats     *Stats          `json:"stats,omitempty"`
	Rate      *int            `json:"rate,omitempty"`
	Neighbour *NeighbourStats `json:"neighbour,omitempty"`
	Error     string          `json:"error,omitempty"`
}

func parseEvent(line []byte) (event, error) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		return e, fmt.Errorf("read line %q: %w", line, err)
	}
	if e == (event{}) {
		return e, errors.New("read line: it says nothing known")
	}
	return e, nil
}
