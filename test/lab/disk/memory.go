// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// pageBytes is the unit of memory; the kernel's page is no smaller anywhere.
const pageBytes = 4096

// memory holds a disk's content. The kernel gives it pages as they are written;
// what was never written reads as zeros and costs nothing. It is safe for
// concurrent use.
type memory struct {
	mu   sync.RWMutex
	data []byte
	// written has a bit for each page that was written and not given back.
	written []uint64
	pages   int64
}

func newMemory(size int64) (*memory, error) {
	data, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("reserve %d bytes of address space: %w", size, err)
	}
	// A huge page for every 4 KiB written would make it a large disk in memory. A
	// kernel without huge pages answers EINVAL, and needs no advice.
	_ = unix.Madvise(data, unix.MADV_NOHUGEPAGE)
	pages := (size + pageBytes - 1) / pageBytes
	return &memory{data: data, written: make([]uint64, (pages+63)/64)}, nil
}

func (m *memory) size() int64 { return int64(len(m.data)) }

// read fills as much of p as the disk has from that offset on.
func (m *memory) read(p []byte, offset int64) int {
	if offset < 0 || offset >= m.size() {
		return 0
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	return copy(p, m.data[offset:])
}

// write says false, and writes nothing, when the range does not lie on the disk.
func (m *memory) write(p []byte, offset int64) bool {
	if offset < 0 || offset > m.size() || int64(len(p)) > m.size()-offset {
		return false
	}
	if len(p) == 0 {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.data[offset:], p)
	for page := offset / pageBytes; page <= (offset+int64(len(p))-1)/pageBytes; page++ {
		if bit := uint64(1) << (page % 64); m.written[page/64]&bit == 0 {
			m.written[page/64] |= bit
			m.pages++
		}
	}
	return true
}

// zero makes a range zeros and gives whole pages back; it says false, and does
// nothing, when the range does not lie on the disk.
func (m *memory) zero(offset, length int64) bool {
	if offset < 0 || length < 0 || offset > m.size() || length > m.size()-offset {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	end := offset + length
	first, last := (offset+pageBytes-1)/pageBytes, end/pageBytes
	if first >= last {
		clear(m.data[offset:end])
		return true
	}
	clear(m.data[offset : first*pageBytes])
	clear(m.data[last*pageBytes : end])
	whole := m.data[first*pageBytes : last*pageBytes]
	// On private anonymous memory MADV_DONTNEED makes the next read zeros
	// (madvise(2)); on kernels with larger pages the range may not be aligned.
	if unix.Madvise(whole, unix.MADV_DONTNEED) != nil {
		clear(whole)
		return true
	}
	for page := first; page < last; page++ {
		if bit := uint64(1) << (page % 64); m.written[page/64]&bit != 0 {
			m.written[page/64] &^= bit
			m.pages--
		}
	}
	return true
}

func (m *memory) usedBytes() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.pages * pageBytes
}

func (m *memory) close() error { return unix.Munmap(m.data) }
