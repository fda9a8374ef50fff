// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// prefix of the directories under the temporary one.
const prefix = "plumb-local-"

// A workdir is a fresh directory that only its user may enter. Its lock file is
// held as long as the run lives, and let go by the kernel when it dies.
type workdir struct {
	path string
	lock *os.File
}

func newWorkdir(base string) (*workdir, error) {
	path, err := os.MkdirTemp(base, prefix) // mode 0700
	if err != nil {
		return nil, fmt.Errorf("make a working directory: %w; set TMPDIR to a directory that can be written", err)
	}
	lock, err := takeLock(path, os.O_CREATE)
	if err != nil {
		os.RemoveAll(path)
		return nil, fmt.Errorf("lock working directory %s: %w", path, err)
	}
	return &workdir{path: path, lock: lock}, nil
}

// takeLock opens the lock file without following a link and locks it.
func takeLock(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|syscall.O_NOFOLLOW|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (w *workdir) remove() error {
	err := os.RemoveAll(w.path)
	w.lock.Close()
	if err != nil {
		return fmt.Errorf("remove working directory: %w", err)
	}
	return nil
}

// sweep removes the directories of runs that were killed: ours by owner, real
// directories, with a lock file that nobody holds. It returns how many.
func sweep(base string) int {
	entries, err := os.ReadDir(base)
	if err != nil {
		return 0 // making our own will say why
	}
	removed := 0
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
			continue
		}
		path := filepath.Join(base, e.Name())
		lock, err := takeLock(path, 0)
		if err != nil {
			continue // it lives, or it is just being made
		}
		if os.RemoveAll(path) == nil {
			removed++
		}
		lock.Close()
	}
	return removed
}
