// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package rundir

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// baseName is the directory below the temporary one that all runs share.
	baseName = "plumb-lab"
	lockName = "lock"
	listName = "owned"
	// maxList bounds the list that is read back; a line has about 200 bytes.
	maxList = 1 << 20
)

// An Owned thing lives outside of the run's namespaces, so it does not end with
// them.
type Owned struct {
	// Kind says who knows how to remove it.
	Kind string `json:"kind"`
	// Detail is for whoever that is.
	Detail json.RawMessage `json:"detail"`
}

// A Remover takes away what a dead run owned. It must make sure that the thing
// still is that run's, and succeed when it is gone already.
type Remover func(detail json.RawMessage) error

// A Dir is one run's directory. Its lock is held while the run lives. Its methods
// are safe for concurrent use.
type Dir struct {
	// Path of the directory, mode 0700.
	Path string
	// ID is unique among the runs on this machine.
	ID string

	lock *os.File
	mu   sync.Mutex
	list *os.File
}

// New makes a run's directory below temp. Nothing is left of one that fails.
func New(temp string) (*Dir, error) { return newDir(temp, os.OpenFile) }

// An opener is os.OpenFile.
type opener func(path string, flags int, mode os.FileMode) (*os.File, error)

func newDir(temp string, open opener) (*Dir, error) {
	base := filepath.Join(temp, baseName)
	unlock, err := lockBase(base)
	if err != nil {
		return nil, err
	}
	defer unlock()
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails since Go 1.24
	d := &Dir{ID: hex.EncodeToString(random)}
	d.Path = filepath.Join(base, d.ID)
	if err := os.Mkdir(d.Path, 0o700); err != nil {
		return nil, fmt.Errorf("make the run's directory: %w", err)
	}
	if d.lock, err = tryLock(d.File(lockName), open); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the run's directory: %w", err), os.RemoveAll(d.Path))
	}
	if d.list, err = open(d.File(listName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("make the run's list: %w", err), os.RemoveAll(d.Path), d.lock.Close())
	}
	return d, nil
}

// File is a path in the directory.
func (d *Dir) File(name ...string) string {
	return filepath.Join(append([]string{d.Path}, name...)...)
}

// Own writes down what the run is about to make. It is called before the thing is
// made, or what a kill in between leaves would be nobody's.
func (d *Dir) Own(kind string, detail any) error {
	raw, err := json.Marshal(detail)
	if err != nil {
		return fmt.Errorf("write down %s: %w", kind, err)
	}
	line, err := json.Marshal(Owned{Kind: kind, Detail: raw})
	if err != nil {
		return fmt.Errorf("write down %s: %w", kind, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.list.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write down %s: %w", kind, err)
	}
	return nil
}

// Remove takes away what the run owned, last first, and then its directory. What
// cannot be removed stays written down for the next run.
func (d *Dir) Remove(removers map[string]Remover) error {
	return errors.Join(remove(d.Path, removers), d.list.Close(), d.lock.Close())
}

// Sweep cleans up after runs that are dead: those whose lock nobody holds. It
// returns how many there were. While it removes what they owned, which may take long,
// others can make runs, and leave to it the dead ones that it is at.
func Sweep(temp string, removers map[string]Remover) (int, error) {
	base := filepath.Join(temp, baseName)
	if _, err := os.Stat(base); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	dead, err := lockDead(base)
	problems := []error{err}
	for path, lock := range dead {
		if err := errors.Join(remove(path, removers), lock.Close()); err != nil {
			problems = append(problems, ofDead(path, err))
		}
	}
	return len(dead), errors.Join(problems...)
}

func ofDead(path string, err error) error {
	return fmt.Errorf("clean up after the dead run %s: %w", filepath.Base(path), err)
}

// lockDead takes the locks of all dead runs, by the paths of their directories. No
// run is half made meanwhile, so one without a lock's holder is dead.
func lockDead(base string) (map[string]*os.File, error) {
	unlock, err := lockBase(base)
	if err != nil {
		return nil, err
	}
	defer unlock()
	entries, err := os.ReadDir(base)
	if err != nil {
		return nil, fmt.Errorf("look for dead runs: %w", err)
	}
	dead := map[string]*os.File{}
	var problems []error
	for _, e := range entries {
		path := filepath.Join(base, e.Name())
		if !e.IsDir() {
			continue
		}
		lock, err := tryLock(filepath.Join(path, lockName), os.OpenFile)
		switch {
		case err == nil:
			dead[path] = lock
		case !errors.Is(err, unix.EWOULDBLOCK): // else it lives, or another sweeps it
			problems = append(problems, ofDead(path, err))
		}
	}
	return dead, errors.Join(problems...)
}

// remove takes a run's things away. Its directory goes only when all of them did. The
// caller holds the run's lock, and it is this that keeps others off: removers may
// take long. Only the directory itself goes with all others kept out, so that nobody
// finds one without its lock.
func remove(path string, removers map[string]Remover) error {
	list, err := read(filepath.Join(path, listName))
	if err != nil {
		return err
	}
	var problems []error
	for i := len(list) - 1; i >= 0; i-- {
		remover, known := removers[list[i].Kind]
		if !known {
			problems = append(problems, fmt.Errorf("nobody knows how to remove a %q", list[i].Kind))
			continue
		}
		if err := remover(list[i].Detail); err != nil {
			problems = append(problems, err)
		}
	}
	if len(problems) > 0 {
		return errors.Join(problems...)
	}
	unlock, err := lockBase(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove the run's directory: %w", err)
	}
	return nil
}

func read(path string) ([]Owned, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // killed before it owned anything
	}
	if err != nil {
		return nil, fmt.Errorf("read what the run owned: %w", err)
	}
	if len(raw) > maxList {
		return nil, fmt.Errorf("read what the run owned: %s has %d bytes, %d are taken", path, len(raw), maxList)
	}
	var out []Owned
	for scanner := bufio.NewScanner(bytes.NewReader(raw)); scanner.Scan(); {
		var o Owned
		// The last line may be cut short by the kill; what it names was not made yet.
		if json.Unmarshal(scanner.Bytes(), &o) == nil && o.Kind != "" {
			out = append(out, o)
		}
	}
	return out, nil
}

// lockBase keeps two runs from making and sweeping directories at the same time. It
// locks the directory itself, so that nothing is left when the last run has gone.
func lockBase(base string) (unlock func(), err error) {
	for {
		if err := os.Mkdir(base, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make the directory of runs: %w", err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(base, &st); errors.Is(err, fs.ErrNotExist) {
			continue // the last run has just gone
		} else if err != nil {
			return nil, fmt.Errorf("look at the directory of runs: %w", err)
		}
		// The temporary directory is everybody's: what stands in another's directory
		// must not tell us what to remove.
		if int(st.Uid) != os.Geteuid() || st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o077 != 0 {
			return nil, fmt.Errorf("use %s: it is not a directory that only this user can write; remove it", base)
		}
		f, err := os.Open(base)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("lock the directory of runs: %w", err)
		}
		if err := flock(f, unix.LOCK_EX); err != nil {
			return nil, errors.Join(fmt.Errorf("lock the directory of runs: %w", err), f.Close())
		}
		// Whoever held the lock may have removed the directory meanwhile.
		var locked, there unix.Stat_t
		if unix.Fstat(int(f.Fd()), &locked) == nil && unix.Lstat(base, &there) == nil && locked.Ino == there.Ino {
			return func() {
				_ = os.Remove(base) // not empty while other runs are there
				_ = f.Close()       // which unlocks
			}, nil
		}
		_ = f.Close()
	}
}

// flock locks, over interruptions by signals.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// tryLock locks a file, or fails with EWOULDBLOCK when another process has. The
// descriptor is not inherited, so the lock ends with this process.
func tryLock(path string, open opener) (*os.File, error) {
	f, err := open(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Describe names what a detail is about, for messages.
func Describe(detail json.RawMessage) string { return strings.Trim(string(detail), `"`) }
