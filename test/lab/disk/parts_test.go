// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSettingsAreReadStrictly(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]Settings{
		`{}`:                         {},
		`{"fsync":"0s","iops":0}`:    {},
		`{"fsync":"5ms","iops":100}`: {Fsync: 5 * time.Millisecond, IOPS: 100},
		`{"iops":1}`:                 {IOPS: 1},
	} {
		var got Settings
		require.NoError(t, json.Unmarshal([]byte(line), &got), line)
		require.Equal(t, want, got, line)
		raw, err := json.Marshal(got)
		require.NoError(t, err)
		var again Settings
		require.NoError(t, json.Unmarshal(raw, &again))
		require.Equal(t, want, again)
	}
	content, err := newMemory(minSizeBytes)
	require.NoError(t, err)
	defer func() { require.NoError(t, content.close()) }()
	files := newFilesystem(content)
	for _, line := range []string{`{"fsnc":"5ms"}`, `{"fsync":5}`, `{"fsync":"-1s"}`, `{"fsync":"2m"}`, `{"iops":-1}`, `{"iops":1000001}`, `{} {}`, `[]`, ``} {
		require.NotEmpty(t, files.command([]byte(line)).Error, line)
	}
	require.NotNil(t, files.command([]byte(askStats)).Stats)
	require.Equal(t, &Settings{IOPS: 7}, files.command([]byte(`{"iops":7}`)).Applied)
}

func TestConfigsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	good := Config{Name: "a", At: "/run/etcd"}
	complete, err := good.complete()
	require.NoError(t, err)
	require.Equal(t, Config{Name: "a", At: "/run/etcd", Backing: "/run/etcd.disk", SizeBytes: DefaultSizeBytes}, complete)
	again, err := parseConfig(complete.Args())
	require.NoError(t, err)
	require.Equal(t, complete, again)
	for name, spoil := range map[string]func(*Config){
		"no name":          func(c *Config) { c.Name = "" },
		"a long name":      func(c *Config) { c.Name = string(make([]byte, 64)) },
		"a name with path": func(c *Config) { c.Name = "a/b" },
		"too small":        func(c *Config) { c.SizeBytes = 1 << 20 },
		"not whole pages":  func(c *Config) { c.SizeBytes = DefaultSizeBytes + 1 },
		"no mount point":   func(c *Config) { c.At = "" },
		"relative":         func(c *Config) { c.At = "etcd" },
		"hidden":           func(c *Config) { c.Backing = "/run/etcd/disk" },
	} {
		c := good
		spoil(&c)
		_, err := c.complete()
		require.Error(t, err, name)
	}
	_, err = parseConfig([]string{"-name", "a", "-at", "/run/x", "more"})
	require.Error(t, err)
}

// A throttle's time is the bubble's, so nothing here waits in earnest.
func TestAThrottleKeepsItsRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle()
		began := time.Now()
		for range 1000 {
			th.wait(true)
		}
		require.Zero(t, time.Since(began), "a healthy disk waits for nothing")

		th.set(Settings{IOPS: 100})
		<-time.After(time.Hour) // nothing is saved up
		began = time.Now()
		for range 100 {
			th.wait(false)
		}
		require.Equal(t, 990*time.Millisecond-catchUp, time.Since(began))

		th.set(Settings{Fsync: 20 * time.Millisecond})
		began = time.Now()
		th.wait(false)
		require.Zero(t, time.Since(began), "only a flush is delayed")
		th.wait(true)
		require.Equal(t, 20*time.Millisecond, time.Since(began))
	})
}

func TestAHealedDiskIsHealthyAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		th := newThrottle()
		th.set(Settings{IOPS: 1, Fsync: time.Minute})
		began := time.Now()
		done := make(chan time.Duration, 10)
		for range 10 {
			go func() {
				th.wait(true)
				done <- time.Since(began)
			}()
		}
		synctest.Wait()
		<-time.After(2500 * time.Millisecond)
		th.set(Settings{Fsync: 5 * time.Second})
		for range 10 {
			took := <-done
			// Those in the line begin their flush now, three had begun it.
			require.GreaterOrEqual(t, took, 5*time.Second)
			require.LessOrEqual(t, took, 7500*time.Millisecond)
		}
		th.set(Settings{Fsync: time.Minute})
		go func() {
			th.wait(true)
			done <- time.Since(began)
		}()
		synctest.Wait()
		before := time.Since(began)
		th.set(Settings{})
		require.Equal(t, before, <-done)
	})
}

func TestMemoryIsSparse(t *testing.T) {
	t.Parallel()
	m, err := newMemory(1 << 20)
	require.NoError(t, err)
	defer func() { require.NoError(t, m.close()) }()
	page := make([]byte, pageBytes)
	require.Equal(t, pageBytes, m.read(page, 12*pageBytes))
	require.Equal(t, make([]byte, pageBytes), page, "a hole reads as zeros")
	require.Zero(t, m.usedBytes())

	data := []byte("0123456789")
	require.True(t, m.write(data, pageBytes-5))
	require.Equal(t, int64(2*pageBytes), m.usedBytes(), "it lies on two pages")
	require.True(t, m.write(data, pageBytes-5))
	require.Equal(t, int64(2*pageBytes), m.usedBytes())
	got := make([]byte, 10)
	require.Equal(t, 10, m.read(got, pageBytes-5))
	require.Equal(t, data, got)

	require.True(t, m.zero(pageBytes-3, pageBytes+3))
	require.Equal(t, int64(pageBytes), m.usedBytes(), "only the whole page is given back")
	require.Equal(t, 10, m.read(got, pageBytes-5))
	require.Equal(t, []byte("01\x00\x00\x00\x00\x00\x00\x00\x00"), got)
	require.True(t, m.zero(pageBytes-5, 1))
	require.Equal(t, 1, m.read(got[:1], pageBytes-5))
	require.Equal(t, byte(0), got[0])

	require.Equal(t, 3, m.read(got, 1<<20-3), "a read ends with the disk")
	require.Zero(t, m.read(got, 1<<20))
	for _, at := range []int64{-1, 1<<20 - 9, 1 << 20, 1 << 40} {
		require.False(t, m.write(data, at), at)
		require.False(t, m.zero(at, 10), at)
	}
	require.True(t, m.write(nil, 1<<20))
}

func TestTheFileSystemHasOneFile(t *testing.T) {
	t.Parallel()
	m, err := newMemory(minSizeBytes)
	require.NoError(t, err)
	defer func() { require.NoError(t, m.close()) }()
	f := newFilesystem(m)
	var entry fuse.EntryOut
	require.Equal(t, fuse.ENOENT, f.Lookup(nil, &fuse.InHeader{NodeId: 1}, "other", &entry))
	require.Equal(t, fuse.OK, f.Lookup(nil, &fuse.InHeader{NodeId: 1}, fileName, &entry))
	require.Equal(t, uint64(minSizeBytes), entry.Size)
	written, status := f.Writev(nil, &fuse.WriteIn{Offset: 4094}, [][]byte{[]byte("ab"), []byte("cd")})
	require.Equal(t, fuse.OK, status)
	require.Equal(t, uint32(4), written)
	got := make([]byte, 4)
	m.read(got, 4094)
	require.Equal(t, "abcd", string(got))
	_, status = f.Writev(nil, &fuse.WriteIn{Offset: minSizeBytes - 1}, [][]byte{[]byte("ab")})
	require.Equal(t, fuse.Status(unix.ENOSPC), status)
	require.Equal(t, fuse.Status(unix.EOPNOTSUPP), f.Fallocate(nil, &fuse.FallocateIn{Length: 1}))
	require.Equal(t, fuse.OK, f.Fallocate(nil, &fuse.FallocateIn{Length: 8192, Mode: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}))
	require.Zero(t, m.usedBytes())
	require.Equal(t, Stats{Writes: 3}, f.stats())
}

func TestMountsAreRead(t *testing.T) {
	t.Parallel()
	got := parseMounts("36 35 7:3 / /run/etcd rw,noatime shared:1 - ext4 /dev/loop3 rw\n" +
		"37 35 0:46 / /run/a\\040b rw - fuse.plumb-disk the\\134name rw,user_id=0\nnonsense\n1 2 x / /x rw - a b c\n")
	require.Equal(t, []mount{
		{major: 7, minor: 3, point: "/run/etcd", kind: "ext4", source: "/dev/loop3"},
		{minor: 46, point: "/run/a b", kind: "fuse.plumb-disk", source: "the\\name"},
	}, got)
}

func TestALoopDeviceThatAnotherTookIsTriedAgain(t *testing.T) {
	t.Parallel()
	numbers := 0
	free := func() (int, bool, error) { numbers++; return numbers, numbers == 4, nil }
	device, err := attachFree(free, func(number int) (*loopDevice, error) {
		if number < 4 {
			return nil, []error{nil, unix.EBUSY, unix.ENXIO, unix.ENOENT}[number]
		}
		return &loopDevice{number: number, fd: -1}, nil
	})
	require.NoError(t, err)
	require.Equal(t, 4, device.number)
	require.True(t, device.added)

	_, err = attachFree(free, func(int) (*loopDevice, error) { return nil, unix.EBUSY })
	require.ErrorContains(t, err, "others took each of 64 free ones first")
	_, err = attachFree(free, func(int) (*loopDevice, error) { return nil, unix.EINVAL })
	require.ErrorIs(t, err, unix.EINVAL)
	_, err = attachFree(func() (int, bool, error) { return 0, false, unix.ENOSPC }, nil)
	require.ErrorContains(t, err, "find a free loop device")
	require.True(t, errors.Is(err, unix.ENOSPC))
}
