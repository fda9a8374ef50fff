// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package disk makes a node's disk slow on demand: a FUSE server that keeps one
// file in memory, a loop device on that file, and ext4 on the device. To the kernel,
// and so to the agent, it is a block device as any other.
//
// What a setting does to an application. The loop driver answers each request of the
// block layer with a request to the file: REQ_OP_WRITE with a write, REQ_OP_READ
// with a read, and REQ_OP_FLUSH with vfs_fsync (lo_req_flush), which FUSE sends as
// FSYNC. The device says that it has a volatile cache, and no FUA; so a write with
// FUA becomes a write and a flush (blk-flush.c). On ext4 with its default journal,
// fdatasync(2) of a write into a block that was written before is one write and one
// flush: 2 requests. The first write into a block that was only preallocated, as an
// etcd WAL is, changes the extent tree, so the journal commits: 3 writes and 2
// flushes, 5 requests. Appending 2 KiB at a time to preallocated blocks of 4 KiB the
// two alternate, and 300 calls took 607 writes and 455 flushes (Linux 6.18):
// 3.5 requests for a call.
//
//	setting      fdatasync, p50, of that append (2 cores)
//	healthy      0.3 ms
//	fsync: 20ms  20 ms or 41 ms, by the number of flushes
//	iops: 50     40 ms or 100 ms, 14 calls a second
//
// The disk serves one request at a time, as FUSE holds the file's lock for a write
// and for a sync; so a neighbour's flush also delays etcd's write, as on one queue.
//
// What ends. Three things hold the next one: the mount of ext4 the loop device
// (LO_FLAGS_AUTOCLEAR: it is detached with its last user), the device the file, and
// the file the FUSE connection. The server is a process that touches none of the
// others, so it can always be killed; the kernel then aborts the connection, and
// what waits for the disk gets an error. The role that mounts and unmounts is
// another process. Cleanup does by hand, in the same order, what a killed run left.
package disk
