// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/plumb-dev/plumb/internal/testutils"
)

// listen accepts TCP in a namespace and throws away what comes; it counts it.
func listen(t *testing.T, ns *testutils.NetNS, address string) (total func() int64) {
	t.Helper()
	var l net.Listener
	require.NoError(t, ns.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	}))
	accepting := make(chan struct{})
	var accepted []net.Conn
	t.Cleanup(func() {
		l.Close()
		<-accepting
		// A peer behind a black hole never says goodbye.
		for _, c := range accepted {
			c.Close()
		}
	})
	counts := make(chan int64, 1)
	counts <- 0
	go func() {
		defer close(accepting)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted = append(accepted, c)
			go func() {
				defer c.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := c.Read(buf)
					counts <- <-counts + int64(n)
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	return func() int64 {
		n := <-counts
		counts <- n
		return n
	}
}

func dial(t *testing.T, ns *testutils.NetNS, network, address string) net.Conn {
	t.Helper()
	var c net.Conn
	require.NoError(t, ns.Do(func() (err error) {
		c, err = net.DialTimeout(network, address, 3*time.Second)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

// push writes n bytes without waiting for them to arrive.
func push(c net.Conn, n int) {
	go func() { _, _ = io.CopyN(c, zeros{}, int64(n)) }()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
