// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// fileName is the one file of the FUSE file system: the disk.
	fileName = "disk.img"

	// fileInode is that file's node; 1 is the root (FUSE_ROOT_ID).
	fileInode = 2

	// attributesValid keeps the kernel from ever asking again for attributes that do
	// not change. So LOOP_GET_STATUS64, which reads the inode number, is answered
	// from the kernel's cache even while the server does not answer.
	attributesValid = 365 * 24 * time.Hour
)

// filesystem is the FUSE file system with exactly one file, the disk. Its methods
// are called concurrently.
type filesystem struct {
	fuse.RawFileSystem

	memory   *memory
	throttle *throttle

	reads, writes, fsyncs atomic.Uint64
}

func newFilesystem(m *memory) *filesystem {
	return &filesystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), memory: m, throttle: newThrottle()}
}

func (f *filesystem) stats() Stats {
	return Stats{
		Reads: f.reads.Load(), Writes: f.writes.Load(), Fsyncs: f.fsyncs.Load(),
		MemoryBytes: f.memory.usedBytes(),
	}
}

func (f *filesystem) String() string { return "plumb-disk" }

func (f *filesystem) attributes(inode uint64, out *fuse.Attr) bool {
	out.Ino, out.Nlink, out.Blksize = inode, 1, pageBytes
	switch inode {
	case fuse.FUSE_ROOT_ID:
		out.Mode = syscall.S_IFDIR | 0o500
	case fileInode:
		out.Mode = syscall.S_IFREG | 0o600
		out.Size = uint64(f.memory.size())
	default:
		return false
	}
	return true
}

// Lookup finds the one file.
func (f *filesystem) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if header.NodeId != fuse.FUSE_ROOT_ID || name != fileName {
		return fuse.ENOENT
	}
	out.NodeId = fileInode
	f.attributes(fileInode, &out.Attr)
	out.SetEntryTimeout(attributesValid)
	out.SetAttrTimeout(attributesValid)
	return fuse.OK
}

// GetAttr answers stat(2).
func (f *filesystem) GetAttr(_ <-chan struct{}, input *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if !f.attributes(input.NodeId, &out.Attr) {
		return fuse.ENOENT
	}
	out.SetTimeout(attributesValid)
	return fuse.OK
}

// SetAttr refuses: a disk has one size, and its time stamps say nothing.
func (f *filesystem) SetAttr(<-chan struct{}, *fuse.SetAttrIn, *fuse.AttrOut) fuse.Status {
	return fuse.EPERM
}

// Open gives the file without the page cache: the loop device has one already, and
// every request of the block layer must come here to be counted and slowed.
func (f *filesystem) Open(_ <-chan struct{}, input *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if input.NodeId != fileInode {
		return fuse.Status(syscall.EISDIR)
	}
	out.OpenFlags = fuse.FOPEN_DIRECT_IO
	return fuse.OK
}

// OpenDir opens the root.
func (f *filesystem) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.OK
}

// ReadDir lists the one file.
func (f *filesystem) ReadDir(_ <-chan struct{}, input *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if input.Offset == 0 {
		out.AddDirEntry(fuse.DirEntry{Mode: syscall.S_IFREG, Name: fileName, Ino: fileInode})
	}
	return fuse.OK
}

// StatFs answers statfs(2).
func (f *filesystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = pageBytes, pageBytes, 255
	out.Blocks = uint64(f.memory.size()) / pageBytes
	return fuse.OK
}

// Read is a read request of the block layer.
func (f *filesystem) Read(_ <-chan struct{}, input *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f.throttle.wait(false)
	f.reads.Add(1)
	n := f.memory.read(buf[:min(len(buf), int(input.Size))], int64(input.Offset))
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Writev is a write request of the block layer.
func (f *filesystem) Writev(_ <-chan struct{}, input *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	f.throttle.wait(false)
	f.writes.Add(1)
	offset := int64(input.Offset)
	for _, part := range data {
		if !f.memory.write(part, offset) {
			return 0, fuse.Status(syscall.ENOSPC)
		}
		offset += int64(len(part))
	}
	return uint32(offset - int64(input.Offset)), fuse.OK
}

// Fallocate is a discard or a write of zeros of the block layer (lo_fallocate).
func (f *filesystem) Fallocate(_ <-chan struct{}, input *fuse.FallocateIn) fuse.Status {
	if input.Mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) == 0 {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	f.throttle.wait(false)
	f.writes.Add(1)
	if !f.memory.zero(int64(input.Offset), int64(input.Length)) {
		return fuse.Status(syscall.ENOSPC)
	}
	return fuse.OK
}

// Fsync is a flush of the disk's cache (REQ_OP_FLUSH, lo_req_flush).
func (f *filesystem) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status {
	f.throttle.wait(true)
	f.fsyncs.Add(1)
	return fuse.OK
}

// Flush is a close(2) of the file, which is nothing to a disk.
func (f *filesystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }
