// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"io"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/plumb-dev/plumb/test/lab/service/internal/byclient"
)

// forwardedFor is what a proxy adds. Each of the three clouds refuses a request that
// has it.
const forwardedFor = "X-Forwarded-For"

// handle treats a request as the mode of its client says. It is counted whatever
// the mode.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	client := byclient.Parse(r.RemoteAddr)
	class := classify(r.URL.Path, r.URL.RawQuery)
	s.requests.add(client, class)

	state := s.modes.For(client)
	switch state.mode {
	case Timeout:
		hold(r)
	case Impostor:
		impostor(w)
	case HTTP500:
		s.fail(w, http.StatusInternalServerError)
	case Disabled:
		s.fail(w, http.StatusForbidden)
	case Throttle:
		if !state.allowed.allow(client, s.cfg.Now()) {
			s.fail(w, http.StatusTooManyRequests)
			return
		}
		s.answer(w, r, client, class)
	case HopLimit:
		if r.Method == http.MethodPut && setHopLimit(r, 1) != nil {
			// An answer that might go further than it may is not sent.
			hold(r)
		}
		s.answer(w, r, client, class)
	default:
		s.answer(w, r, client, class)
	}
}

// answer is what a healthy server says. What is secret is not there, whoever asks
// and however.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, client netip.Addr, class Class) {
	if class.Secret() {
		s.fail(w, http.StatusNotFound)
		return
	}
	instance := s.cfg.Instance(client)
	switch s.cfg.Cloud {
	case AWS:
		s.aws(w, r, instance)
	case Azure:
		azure(w, r, instance)
	case GCP:
		gcp(w, r, instance)
	}
}

// fail answers with an error that looks as the cloud's does.
func (s *Server) fail(w http.ResponseWriter, status int) {
	switch s.cfg.Cloud {
	case AWS:
		awsError(w, status)
	case Azure:
		azureError(w, status, http.StatusText(status))
	case GCP:
		gcpError(w, status, http.StatusText(status))
	}
}

// hold keeps a request without an answer until its client has gone or the server
// ends, and then drops the connection.
func hold(r *http.Request) {
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

// impostor answers as anything may that took the address of the metadata server: a
// captive portal, a proxy, a pod with host network.
func impostor(w http.ResponseWriter) {
	w.Header().Set("Server", "nginx")
	write(w, http.StatusOK, "text/html", "<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n")
}

// write sends an answer whose length is known. An error means that the client has
// gone.
func write(w http.ResponseWriter, status int, contentType, body string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}
