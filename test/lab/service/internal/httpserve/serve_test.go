// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package httpserve

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return listener
}

func get(ctx context.Context, listener net.Listener) (string, error) {
	return getOver(ctx, listener, nil)
}

func getOver(ctx context.Context, listener net.Listener, protocols *http.Protocols) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listener.Addr().String(), nil)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{DisableKeepAlives: true, Protocols: protocols}
	response, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestServeAnswersOnEveryListenerUntilTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	one, two := listen(t), listen(t)
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "here")
		})}, one, two)
	}()
	for _, l := range []net.Listener{one, two} {
		body, err := get(t.Context(), l)
		require.NoError(t, err)
		require.Equal(t, "here", body)
	}
	// A connection that never says anything does not hold up the end.
	idle, err := net.Dial("tcp", one.Addr().String())
	require.NoError(t, err)
	defer idle.Close()
	cancel()
	require.NoError(t, <-served)
	_, err = get(t.Context(), two)
	require.Error(t, err)
}

func TestServeWaitsForItsRequests(t *testing.T) {
	for name, two := range map[string]bool{"HTTP/1.1": false, "HTTP/2, where they outlive connections": true} {
		t.Run(name, func(t *testing.T) {
			protocols := new(http.Protocols)
			protocols.SetHTTP1(!two)
			protocols.SetUnencryptedHTTP2(two)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			listener := listen(t)
			began, release := make(chan struct{}), make(chan struct{})
			served, answered := make(chan error, 1), make(chan struct{})
			go func() {
				served <- Serve(ctx, &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					close(began)
					<-r.Context().Done()
					<-release
				})}, listener)
			}()
			go func() {
				defer close(answered)
				_, _ = getOver(t.Context(), listener, protocols)
			}()
			<-began
			cancel()
			select {
			case <-served:
				t.Error("a request outlived the server")
				close(release)
			case <-time.After(100 * time.Millisecond):
				close(release)
				require.NoError(t, <-served)
			}
			<-answered
		})
	}
}

func TestServeSaysWhyItEnded(t *testing.T) {
	good, bad := listen(t), listen(t)
	require.NoError(t, bad.Close())
	err := Serve(t.Context(), &http.Server{Handler: http.NotFoundHandler()}, good, bad)
	require.ErrorContains(t, err, bad.Addr().String())
	_, err = good.Accept()
	require.ErrorIs(t, err, net.ErrClosed, "the others are closed too")
	require.ErrorContains(t, Serve(t.Context(), &http.Server{}), "no listener")
}

func TestServeIsOverWhenTheContextIs(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	listener := listen(t)
	require.NoError(t, Serve(ctx, &http.Server{Handler: http.NotFoundHandler()}, listener))
	_, err := listener.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
}
