// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// openDir makes the directory, locks it and reads the mark.
func (b *Bus) openDir() error {
	dir := b.cfg.Dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("open the bus: make directory %s: %w", dir, err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("open the bus: %w: make the directory writable for this user", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer lock.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("open the bus: lock %s: %w", lock.Name(), err)
		}
		who, _ := io.ReadAll(io.LimitReader(lock, 32))
		return fmt.Errorf("open the bus: %w: process %s has %s: stop it or give this one a directory of its own", ErrLocked, strings.TrimSpace(string(who)), dir)
	}
	// The number is only for the message above; the lock itself goes with the
	// process, however that ends.
	if err := errors.Join(lock.Truncate(0), writeAt(lock, []byte(strconv.Itoa(os.Getpid())+"\n"))); err != nil && !isSpace(err) {
		lock.Close()
		return fmt.Errorf("open the bus: write %s: %w", lock.Name(), err)
	}
	m, err := openMark(filepath.Join(dir, "acknowledged"))
	if err != nil {
		lock.Close()
		return err
	}
	b.lock, b.mark = lock, m
	return nil
}

func (b *Bus) closeDir() error {
	if b.lock == nil {
		return nil
	}
	err := errors.Join(b.mark.file.Close(), b.lock.Close())
	if err != nil {
		return fmt.Errorf("close the bus: %w", err)
	}
	return nil
}

// room says whether the file system of the store has more than the reserve left.
func (b *Bus) room() error {
	if b.cfg.Dir == "" {
		return nil
	}
	free, inodes, err := freeSpace(b.cfg.Dir)
	if err != nil {
		return fmt.Errorf("%w: look at the free space of %s: %w", ErrUnavailable, b.cfg.Dir, err)
	}
	if free < b.cfg.ReserveBytes {
		return fmt.Errorf("%w: %d KiB are free on the file system of %s, %d KiB are kept in reserve: free some space or give the bus a larger file system", ErrFull, free>>10, b.cfg.Dir, b.cfg.ReserveBytes>>10)
	}
	if inodes < 16 {
		return fmt.Errorf("%w: the file system of %s has no inodes left: remove files or give the bus a file system of its own", ErrFull, b.cfg.Dir)
	}
	return nil
}

// freeSpace returns the bytes and inodes that this process may still use.
func freeSpace(dir string) (bytes, inodes int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	inodes = int64(st.Ffree)
	if st.Files == 0 { // btrfs and others do not count them
		inodes = 1 << 40
	}
	return int64(st.Bavail) * st.Bsize, inodes, nil
}

func isSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

func writeAt(f *os.File, p []byte) error {
	_, err := f.WriteAt(p, 0)
	return err
}

// A mark is the highest acknowledged sequence, in a file of eight bytes. It is
// written without fsync: it outlives the process, and after a loss of power it
// is at worst too low, never too high, because it follows the message's fsync.
type mark struct {
	path string
	file *os.File

	mu   sync.Mutex
	high uint64
}

func openMark(path string) (*mark, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the bus: %w: make the file writable for this user", err)
	}
	var buf [8]byte
	n, err := f.ReadAt(buf[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return nil, fmt.Errorf("open the bus: read %s: %w", path, err)
	}
	m := &mark{path: path, file: f}
	if n == len(buf) {
		m.high = binary.LittleEndian.Uint64(buf[:])
	}
	return m, nil
}

func (m *mark) value() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.high
}

func (m *mark) raise(sequence uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if sequence <= m.high {
		return nil
	}
	var buf [8]byte
	binary.LittleEndian.PutUint64(buf[:], sequence)
	if err := writeAt(m.file, buf[:]); err != nil {
		return err
	}
	m.high = sequence
	return nil
}
