// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

const (
	// httpMost is how many requests of a flow are under way at once.
	httpMost = 8
	// httpPatience is how long an application waits for one answer.
	httpPatience = 10 * time.Second
	// chunk is how much is read at once.
	chunk = 16 << 10
)

func (e *engine) http(ctx context.Context, f Flow, run func(func())) {
	l := e.newLane(f, "", httpMost)
	transport := &http.Transport{
		DialContext:         (&net.Dialer{KeepAlive: -1}).DialContext,
		DisableCompression:  true,
		MaxIdleConnsPerHost: httpMost,
		// A connection that is kept goes on with the segment size it began with, and
		// would not feel an MTU that was changed since.
		DisableKeepAlives: true,
	}
	defer transport.CloseIdleConnections()
	buffers := &sync.Pool{New: func() any { return new([chunk]byte) }}
	var requests sync.WaitGroup
	defer requests.Wait() // before the idle connections are closed
	schedule(ctx, f.Every, func() {
		t, ctx := l.begin(ctx, httpPatience, f.ResponseBytes, stage{doing: "connecting", missing: "no answer to the connection attempt"})
		if t == nil {
			return
		}
		requests.Add(1)
		run(func() {
			defer requests.Done()
			buffer, _ := buffers.Get().(*[chunk]byte)
			defer buffers.Put(buffer)
			if err := get(ctx, transport, f, t, buffer[:]); err != nil {
				t.fail(ctx, err)
				return
			}
			t.done()
		})
	})
}

func get(ctx context.Context, transport *http.Transport, f Flow, t *transfer, buffer []byte) error {
	trace := &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) {
			t.reach(stage{doing: "waiting for the answer", missing: "no byte of the answer"})
		},
		GotFirstResponseByte: func() {
			t.reach(stage{doing: "reading the answer", missing: "no further byte of the answer", counts: true})
		},
	}
	address := fmt.Sprintf("http://%s/%d", f.Target, f.ResponseBytes)
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", response.Status)
	}
	var got int64
	for {
		n, err := response.Body.Read(buffer)
		got += int64(n)
		t.advance(got)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if got != f.ResponseBytes {
		return fmt.Errorf("the answer has %d bytes", got)
	}
	return nil
}
