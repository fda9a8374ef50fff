// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// A guard lets through only requests that were addressed to this machine's own
// names. A browser that was lured to evil.example, whose DNS then answers
// 127.0.0.1, still sends Host: evil.example (DNS rebinding).
type guard struct {
	next    http.Handler
	allowed map[string]bool
	refused func(reason string)
}

// newGuard wraps a handler. The loopback names are always allowed; allowed are
// host names without port.
func newGuard(next http.Handler, allowed []string, refused func(reason string)) *guard {
	g := &guard{next: next, allowed: map[string]bool{"localhost": true, "127.0.0.1": true, "::1": true}, refused: refused}
	for _, host := range allowed {
		g.allowed[strings.ToLower(strings.Trim(host, "[]"))] = true
	}
	return g
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.allowed[hostOf(r.Host)] {
		g.refused("host")
		http.Error(w, fmt.Sprintf("refused: this address does not answer to the name %q; use localhost, or start the aggregator with --allowed-host %s", r.Host, hostOf(r.Host)), http.StatusForbidden)
		return
	}
	// A browser names the page that asks. Only a page of this very address may:
	// another port on localhost is another program.
	if origins := r.Header.Values("Origin"); len(origins) > 0 {
		if len(origins) > 1 || !sameOrigin(origins[0], r.Host) {
			g.refused("origin")
			http.Error(w, "refused: a page of another origin may not read this API", http.StatusForbidden)
			return
		}
	}
	// Sec-Fetch-Site goes with every request of a browser, also those without an
	// Origin, such as an image.
	if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
		g.refused("origin")
		http.Error(w, "refused: a page of another origin may not read this API", http.StatusForbidden)
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	g.next.ServeHTTP(w, r)
}

// hostOf is the host without port and brackets, in lower case.
func hostOf(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

func sameOrigin(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && strings.EqualFold(u.Host, host)
}
