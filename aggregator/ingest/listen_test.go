// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/internal/pki"
	"github.com/plumb-dev/plumb/internal/testutils"
)

// echo serves a listener with a handshake and one answer per connection.
func echo(t *testing.T, l net.Listener, each func(*tls.Conn)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				conn := c.(*tls.Conn)
				if conn.Handshake() == nil {
					if each != nil {
						each(conn)
					}
					conn.Write([]byte("x"))
					io.Copy(io.Discard, conn)
				}
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

func testPKI(t *testing.T) pki.Files {
	files, err := pki.Create(t.TempDir(), pki.Options{Hosts: []string{"127.0.0.1"}})
	require.NoError(t, err)
	return files
}

func TestListenErrorsAreClear(t *testing.T) {
	files := testPKI(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	bad := t.TempDir() + "/bad"
	require.NoError(t, os.WriteFile(bad, []byte("no PEM"), 0o600))
	for _, tc := range []struct {
		name string
		cfg  ListenConfig
		says string
	}{
		{"port taken", ListenConfig{Address: taken.Addr().String(), CertFile: files.Cert, KeyFile: files.Key},
			"listen for agents on " + taken.Addr().String() + ": address already in use: stop the process that has the port or choose another address"},
		{"no certificate", ListenConfig{Address: "127.0.0.1:0"}, "a certificate and its key are required"},
		{"a missing certificate", ListenConfig{Address: "127.0.0.1:0", CertFile: "/none", KeyFile: files.Key}, "/none"},
		{"a certificate that is none", ListenConfig{Address: "127.0.0.1:0", CertFile: bad, KeyFile: files.Key}, "read certificate " + bad},
		{"an address that is none", ListenConfig{Address: "nowhere", CertFile: files.Cert, KeyFile: files.Key}, "listen for agents on nowhere"},
		{"a segment size that the kernel refuses", ListenConfig{Address: "127.0.0.1:0", CertFile: files.Cert, KeyFile: files.Key, MaxSegment: 10}, "88 to 32767"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, err := Listen(context.Background(), tc.cfg)
			require.ErrorContains(t, err, tc.says)
			require.NotContains(t, err.Error(), "\n")
			require.Nil(t, l)
		})
	}
}

func TestConnectionsAreClampedAndSpeakOnlyTLS13(t *testing.T) {
	files := testPKI(t)
	l, err := Listen(context.Background(), ListenConfig{Address: "127.0.0.1:0", CertFile: files.Cert, KeyFile: files.Key})
	require.NoError(t, err)
	sizes := make(chan int, 10)
	echo(t, l, func(c *tls.Conn) {
		raw, err := c.NetConn().(*counted).SyscallConn()
		if err != nil {
			return
		}
		raw.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				sizes <- int(info.Snd_mss)
			}
		})
	})
	cfg := trustingConfig(t, files)
	c, err := tls.Dial("tcp", l.Addr().String(), cfg)
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, uint16(tls.VersionTLS13), c.ConnectionState().Version)
	require.Equal(t, "h2", c.ConnectionState().NegotiatedProtocol)
	require.LessOrEqual(t, <-sizes, 512)

	old := cfg.Clone()
	old.MaxVersion = tls.VersionTLS12
	_, err = tls.Dial("tcp", l.Addr().String(), old)
	require.ErrorContains(t, err, "protocol version")
}

func TestConnectionsAreBoundedBeforeTLS(t *testing.T) {
	files := testPKI(t)
	reg := prometheus.NewRegistry()
	l, err := Listen(context.Background(), ListenConfig{Address: "127.0.0.1:0", CertFile: files.Cert, KeyFile: files.Key, PerAddress: 3, Connections: 4, NewPerAddress: 1000, Registerer: reg})
	require.NoError(t, err)
	echo(t, l, nil)
	dial := func(from string) (*tls.Conn, error) {
		d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
		c, err := tls.DialWithDialer(d, "tcp", l.Addr().String(), trustingConfig(t, files))
		if err == nil {
			c.SetDeadline(time.Now().Add(5 * time.Second))
			_, err = c.Read(make([]byte, 1))
		}
		return c, err
	}
	var open []*tls.Conn
	for range 3 {
		c, err := dial("127.0.0.1")
		require.NoError(t, err)
		open = append(open, c)
	}
	_, err = dial("127.0.0.1")
	require.Error(t, err, "a fourth from one address")
	c, err := dial("127.0.0.2")
	require.NoError(t, err, "another address is served")
	_, err = dial("127.0.0.3")
	require.Error(t, err, "a fifth in all")
	require.NoError(t, open[0].Close())
	require.NoError(t, c.Close())
	testutils.Eventually(t, 5*time.Second, "the place is free again", func() bool {
		c, err := dial("127.0.0.1")
		if err == nil {
			open[0] = c
		}
		return err == nil
	})
	for _, c := range open {
		c.Close()
	}
}

func TestNewConnectionsOfAnAddressAreBounded(t *testing.T) {
	files := testPKI(t)
	c := &clock{t: time.Now()}
	l, err := Listen(context.Background(), ListenConfig{Address: "127.0.0.1:0", CertFile: files.Cert, KeyFile: files.Key, PerAddress: 3, NewPerAddress: 1, Now: c.now})
	require.NoError(t, err)
	echo(t, l, nil)
	try := func() error {
		conn, err := tls.Dial("tcp", l.Addr().String(), trustingConfig(t, files))
		if err == nil {
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		return err
	}
	good := 0
	testutils.Eventually(t, 5*time.Second, "the burst is used up", func() bool {
		if try() != nil {
			return true
		}
		good++
		return false
	})
	require.Equal(t, 3, good)
	c.advance(time.Second)
	require.NoError(t, try())
}

func TestCertificateIsReadAgainWhenItChanges(t *testing.T) {
	dir := t.TempDir()
	files, err := pki.Create(dir, pki.Options{Hosts: []string{"127.0.0.1"}})
	require.NoError(t, err)
	c := &clock{t: time.Now()}
	l, err := Listen(context.Background(), ListenConfig{Address: "127.0.0.1:0", CertFile: files.Cert, KeyFile: files.Key, Now: c.now})
	require.NoError(t, err)
	echo(t, l, nil)
	serial := func() []byte {
		c.advance(2 * time.Second)
		conn, err := tls.Dial("tcp", l.Addr().String(), trustingConfig(t, files))
		require.NoError(t, err)
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Bytes()
	}
	first := serial()
	require.True(t, bytes.Equal(first, serial()))
	_, err = pki.Issue(dir, pki.Options{Hosts: []string{"127.0.0.1"}})
	require.NoError(t, err)
	second := serial()
	require.False(t, bytes.Equal(first, second), "the new one is served")

	good, err := os.ReadFile(files.Cert)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(files.Cert, []byte("broken"), 0o600))
	require.True(t, bytes.Equal(second, serial()), "a broken one leaves the old one in service")
	require.NoError(t, os.Remove(files.Cert))
	require.True(t, bytes.Equal(second, serial()), "so does a missing one")
	require.NoError(t, os.WriteFile(files.Cert, good, 0o600))
	require.True(t, bytes.Equal(second, serial()))
}
