// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The headers of IMDSv2 (Amazon EC2 User Guide, "Use the Instance Metadata Service
// to access instance metadata").
const (
	awsTokenHeader    = "X-Aws-Ec2-Metadata-Token"
	awsTokenTTLHeader = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
)

const awsTokenPath = "/latest/api/token"

// aws answers as EC2's server does. Its status codes are those of the Amazon EC2
// User Guide, "Retrieve instance metadata", responses and error messages: 400 for a
// PUT that is not valid, 401 for a token that is missing or not valid, 403 for what
// is not allowed (a PUT that came through a proxy), 404. It names itself EC2ws and
// closes the connection after each answer, as recorded exchanges with it show.
func (s *Server) aws(w http.ResponseWriter, r *http.Request, instance Instance) {
	at := clean(r.URL.Path)
	switch {
	case at == awsTokenPath && r.Method == http.MethodPut:
		s.awsToken(w, r, instance)
		return
	case at == awsTokenPath:
		w.Header().Set("Allow", "OPTIONS, PUT")
		awsError(w, http.StatusMethodNotAllowed)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		awsError(w, http.StatusMethodNotAllowed)
		return
	}
	given := r.Header.Get(awsTokenHeader)
	if given != "" || !s.cfg.AllowV1 {
		left, ok := s.tokens.left(given, instance.ID, s.cfg.Now())
		if !ok {
			awsError(w, http.StatusUnauthorized)
			return
		}
		w.Header().Set(awsTokenTTLHeader, strconv.Itoa(int(left.Truncate(time.Second).Seconds())))
	}
	values := awsTree(instance)
	if value, ok := values.value(at); ok {
		awsText(w, value)
	} else if names := values.list(at); len(names) > 0 {
		awsText(w, strings.Join(names, "\n"))
	} else {
		awsError(w, http.StatusNotFound)
	}
}

func (s *Server) awsToken(w http.ResponseWriter, r *http.Request, instance Instance) {
	if r.Header.Get(forwardedFor) != "" {
		awsError(w, http.StatusForbidden)
		return
	}
	ttl, ok := parseTokenTTL(r.Header.Get(awsTokenTTLHeader))
	if !ok {
		awsError(w, http.StatusBadRequest)
		return
	}
	w.Header().Set(awsTokenTTLHeader, strconv.Itoa(int(ttl.Seconds())))
	awsText(w, s.tokens.issue(instance.ID, s.cfg.Now().Add(ttl)))
}

// awsTree has the categories that say where and what an instance is. An instance
// without a role has no iam below meta-data, and this one has none.
func awsTree(instance Instance) tree {
	if instance.ID == "" {
		return nil
	}
	const meta = "/latest/meta-data/"
	return tree{
		meta + "instance-id":                 instance.ID,
		meta + "instance-type":               instance.Type,
		meta + "hostname":                    instance.Name,
		meta + "local-hostname":              instance.Name,
		meta + "placement/availability-zone": instance.Zone,
		meta + "placement/region":            instance.Region,
		meta + "services/domain":             "amazonaws.com",
		meta + "services/partition":          "aws",
	}
}

func awsText(w http.ResponseWriter, body string) {
	awsHeaders(w)
	w.Header().Set("Accept-Ranges", "none")
	write(w, http.StatusOK, "text/plain", body)
}

func awsError(w http.ResponseWriter, status int) {
	awsHeaders(w)
	title := fmt.Sprintf("%d - %s", status, http.StatusText(status))
	write(w, status, "text/html", "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n"+
		"<html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n"+
		" <head>\n  <title>"+title+"</title>\n </head>\n <body>\n  <h1>"+title+"</h1>\n </body>\n</html>\n")
}

func awsHeaders(w http.ResponseWriter) {
	w.Header().Set("Server", "EC2ws")
	w.Header().Set("Connection", "close")
}
