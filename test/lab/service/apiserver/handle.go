// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/plumb-dev/plumb/test/lab/service/internal/byclient"
)

// handle answers as kube-apiserver does with its default rules: the ClusterRole
// system:public-info-viewer lets a client that is not known GET the health endpoints
// and the version (Kubernetes, "Using RBAC Authorization", API discovery roles); a
// credential that is not known is 401, anything else 403. The words of a 403 are
// those for a path that is no resource, for resources too.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	if wait(r.Context(), &s.delays, byclient.Parse(r.RemoteAddr)) != nil {
		panic(http.ErrAbortHandler)
	}
	header := w.Header()
	header.Set("Date", s.cfg.Now().UTC().Format(http.TimeFormat))
	header.Set("Cache-Control", "no-cache, private")
	switch {
	case r.Header.Get("Authorization") != "" || r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		status(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized")
	case r.Method != http.MethodGet:
		forbidden(w, r)
	case r.URL.Path == "/livez", r.URL.Path == "/readyz", r.URL.Path == "/healthz":
		health(w, r)
	case r.URL.Path == "/version", r.URL.Path == "/version/":
		write(w, http.StatusOK, "application/json", s.version)
	default:
		forbidden(w, r)
	}
}

// health answers as k8s.io/apiserver pkg/server/healthz does: ok, or with ?verbose
// the checks one by one.
func health(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	body := "ok"
	if _, verbose := r.URL.Query()["verbose"]; verbose {
		body = "[+]ping ok\n[+]log ok\n[+]etcd ok\n" + strings.TrimPrefix(r.URL.Path, "/") + " check passed\n"
	}
	write(w, http.StatusOK, "text/plain; charset=utf-8", body)
}

func forbidden(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	status(w, http.StatusForbidden, "Forbidden", fmt.Sprintf("forbidden: User %q cannot %s path %q",
		"system:anonymous", strings.ToLower(r.Method), r.URL.Path))
}

// status writes an object of kind Status (k8s.io/apimachinery pkg/apis/meta/v1).
func status(w http.ResponseWriter, code int, reason, message string) {
	body := struct {
		Kind       string    `json:"kind"`
		APIVersion string    `json:"apiVersion"`
		Metadata   struct{}  `json:"metadata"`
		Status     string    `json:"status"`
		Message    string    `json:"message"`
		Reason     string    `json:"reason"`
		Details    *struct{} `json:"details,omitempty"`
		Code       int       `json:"code"`
	}{Kind: "Status", APIVersion: "v1", Status: "Failure", Message: message, Reason: reason, Code: code}
	if code == http.StatusForbidden {
		body.Details = &struct{}{}
	}
	raw, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	write(w, code, "application/json", string(raw)+"\n")
}

// write sends an answer whose length is known. An error means that the client has
// gone.
func write(w http.ResponseWriter, code int, contentType, body string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	_, _ = io.WriteString(w, body)
}

// versionDocument is what /version says (k8s.io/apimachinery pkg/version, Info).
func versionDocument(version string) (string, error) {
	parts := regexp.MustCompile(`^v(\d+)\.(\d+)\.\d+$`).FindStringSubmatch(version)
	if parts == nil {
		return "", fmt.Errorf("API server: %q is no version: write it as v1.34.2", version)
	}
	raw, err := json.MarshalIndent(struct {
		Major        string `json:"major"`
		Minor        string `json:"minor"`
		GitVersion   string `json:"gitVersion"`
		GitTreeState string `json:"gitTreeState"`
		Compiler     string `json:"compiler"`
		Platform     string `json:"platform"`
	}{parts[1], parts[2], version, "clean", "gc", "linux/amd64"}, "", "  ")
	return string(raw), err
}
