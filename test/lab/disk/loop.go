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

const (
	// loopMajor is LOOP_MAJOR of the kernel's major.h.
	loopMajor = 7

	// nameLimit is LO_NAME_SIZE less the byte that ends it.
	nameLimit = 63

	// attachTries bounds how often a loop device is asked for that another then
	// takes. Each time somebody else has made progress.
	attachTries = 64
)

// A loopDevice is attached to a disk's file for as long as it is open or mounted:
// it was made with LO_FLAGS_AUTOCLEAR.
type loopDevice struct {
	number int
	path   string
	fd     int
	// added: the kernel made the device for us; it had none free.
	added bool
}

func loopName(number int) string { return "loop" + strconv.Itoa(number) }

// attachLoop attaches a free loop device to a file. Name is kept by the device, for
// a later run to know it by. Nodes is a directory for a device node, should /dev
// have none.
func attachLoop(file int, name, nodes string) (*loopDevice, error) {
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/loop-control: %w (the kernel needs CONFIG_BLK_DEV_LOOP)", err)
	}
	defer unix.Close(control)
	return attachFree(
		func() (int, bool, error) { return freeLoop(control) },
		func(number int) (*loopDevice, error) { return configureLoop(number, file, name, nodes) },
	)
}

// attachFree asks for a free device and takes it, until it gets one that nobody
// else took in between.
func attachFree(free func() (int, bool, error), take func(number int) (*loopDevice, error)) (*loopDevice, error) {
	var lost error
	for range attachTries {
		number, added, err := free()
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w; other labs may have them all: losetup -l shows who, or raise max_loop", err)
		}
		device, err := take(number)
		switch {
		case err == nil:
			device.added = added
			return device, nil
		case errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT):
			lost = err // taken, or removed, by another
		default:
			return nil, err
		}
	}
	return nil, fmt.Errorf("attach a loop device: others took each of %d free ones first: %w; start fewer labs at once", attachTries, lost)
}

// freeLoop is LOOP_CTL_GET_FREE: the first device that is attached to nothing; the
// kernel adds one when there is none.
func freeLoop(control int) (number int, added bool, err error) {
	before, err := filepath.Glob("/sys/block/loop*")
	if err != nil {
		return 0, false, err
	}
	number, err = unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return 0, false, err
	}
	added = true
	for _, path := range before {
		added = added && filepath.Base(path) != loopName(number)
	}
	return number, added, nil
}

// configureLoop attaches that device (LOOP_CONFIGURE, Linux 5.8).
func configureLoop(number, file int, name, nodes string) (*loopDevice, error) {
	path, err := loopNode(number, nodes)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	config := unix.LoopConfig{Fd: uint32(file)}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	copy(config.Info.File_name[:nameLimit], name)
	if err := unix.IoctlLoopConfigure(fd, &config); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("attach %s: %w", path, err)
	}
	return &loopDevice{number: number, path: path, fd: fd}, nil
}

// loopNode is the device's node in /dev, or one made in a directory where devtmpfs
// is missing.
func loopNode(number int, nodes string) (string, error) {
	if path, found := nodeIn("/dev", number); found {
		return path, nil
	}
	path := filepath.Join(nodes, loopName(number))
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, loopDev(number)); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make device node %s: %w", path, err)
	}
	return path, nil
}

func loopDev(number int) int { return int(unix.Mkdev(loopMajor, uint32(number))) }

// nodeIn is the device's node in a directory, if it is there.
func nodeIn(directory string, number int) (path string, found bool) {
	path = filepath.Join(directory, loopName(number))
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return path, err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && int(st.Rdev) == loopDev(number)
}

// close lets go of the device; it detaches now, or with its last mount.
func (l *loopDevice) close() {
	if l.fd >= 0 {
		_ = unix.Close(l.fd)
		l.fd = -1
	}
}

// loopAttached says whether a device is attached to anything.
func loopAttached(number int) bool {
	_, err := os.Stat(filepath.Join("/sys/block", loopName(number), "loop"))
	return err == nil
}

// waitDetached waits until the device is attached to nothing, or to what another lab
// has given it meanwhile. Detaching at the last close goes on after the close
// returned.
func waitDetached(number int, name string, limit time.Duration) error {
	if !until(limit, func() bool { return !loopIsNamed(number, name) }) {
		return fmt.Errorf("detach %s: it is still in use after %s; a process has it open or mounted", loopName(number), limit)
	}
	return nil
}

// loopIsNamed says whether a device is attached to the disk of that name.
func loopIsNamed(number int, name string) bool {
	info, err := loopInfo(number)
	return err == nil && info != nil && unix.ByteSliceToString(info.File_name[:]) == name
}

// removeLoop takes back a device that the kernel had added. One that somebody else
// has taken meanwhile stays; one that somebody only looks at is tried again.
func removeLoop(number int) error {
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/loop-control: %w", err)
	}
	defer unix.Close(control)
	until(time.Second, func() bool {
		err = unix.IoctlSetInt(control, unix.LOOP_CTL_REMOVE, number)
		return !errors.Is(err, unix.EBUSY) || loopAttached(number)
	})
	if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", loopName(number), err)
	}
	return nil
}

// namedLoops are the attached devices of that name.
func namedLoops(name string) (map[int]unix.LoopInfo64, error) {
	attached, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	out := map[int]unix.LoopInfo64{}
	for _, path := range attached {
		number, err := strconv.Atoi(strings.TrimPrefix(strings.Split(path, "/")[3], "loop"))
		if err != nil {
			continue
		}
		info, err := loopInfo(number)
		if err != nil {
			return nil, err
		}
		if info != nil && unix.ByteSliceToString(info.File_name[:]) == name {
			out[number] = *info
		}
	}
	return out, nil
}

// loopInfo is nil for a device that is detached, or whose file cannot be a disk's;
// such a device is not opened.
func loopInfo(number int) (*unix.LoopInfo64, error) {
	backing, err := os.ReadFile(filepath.Join("/sys/block", loopName(number), "loop/backing_file"))
	if err != nil || !strings.HasSuffix(strings.TrimSuffix(strings.TrimSpace(string(backing)), " (deleted)"), "/"+fileName) {
		return nil, nil
	}
	var info *unix.LoopInfo64
	err = withLoop(number, func(fd int) error {
		var err error
		info, err = unix.IoctlLoopGetStatus64(fd)
		return err
	})
	// ENXIO: it was detached meanwhile; the others: it is no more.
	if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return info, err
}

// withLoop opens a device for a moment.
func withLoop(number int, fn func(fd int) error) error {
	fd, err := openLoop("/dev", number)
	if err != nil {
		return fmt.Errorf("open %s: %w", loopName(number), err)
	}
	defer unix.Close(fd)
	if err := fn(fd); err != nil {
		return fmt.Errorf("%s: %w", loopName(number), err)
	}
	return nil
}

// openLoop opens a device by its node in a directory of such. Where that is missing
// it makes one on a tmpfs that is mounted nowhere (fsmount, Linux 5.2) and so ends
// with the descriptors of this process, whatever ends it.
func openLoop(directory string, number int) (int, error) {
	if path, found := nodeIn(directory, number); found {
		return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	nodes, err := unmountedTmpfs()
	if err != nil {
		return -1, fmt.Errorf("make a tmpfs for its node: %w", err)
	}
	defer unix.Close(nodes)
	if err := unix.Mknodat(nodes, loopName(number), unix.S_IFBLK|0o600, loopDev(number)); err != nil {
		return -1, fmt.Errorf("make its node: %w", err)
	}
	return unix.Openat(nodes, loopName(number), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

func unmountedTmpfs() (int, error) {
	context, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, err
	}
	return unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
}

// until polls until ok, or says false after the limit.
func until(limit time.Duration, ok func() bool) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-timer.C:
			return ok()
		}
	}
	return true
}
