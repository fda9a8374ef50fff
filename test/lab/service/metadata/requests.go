// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"cmp"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Class says what a request was after, whatever cloud its path is of, and whether
// it was answered or not.
type Class string

// The classes. Session is AWS's own PUT for a session token, which opens nothing by
// itself. Harmless is all that is not another.
const (
	Harmless Class = "harmless"
	Session  Class = "session"
	// Credentials open something: roles, access tokens, keys, passwords.
	Credentials Class = "credentials"
	// Identity is a signed document or token that says who asks.
	Identity Class = "identity"
	// UserData is what users hand to their machines, secrets among it.
	UserData Class = "user-data"
)

// Secret says whether an agent has no business there.
func (c Class) Secret() bool { return c == Credentials || c == Identity || c == UserData }

// A Count is how often a client asked for something.
type Count struct {
	Client netip.Addr
	Class  Class
	N      int
}

// Requests returns how often each client asked for each class of thing since the
// server was made, in whatever mode, sorted. A client that never asked is not there.
func (s *Server) Requests() []Count { return s.requests.all() }

// SecretRequests is Requests for the secret classes alone. It is empty while every
// client behaves.
func (s *Server) SecretRequests() []Count {
	return slices.DeleteFunc(s.requests.all(), func(c Count) bool { return !c.Class.Secret() })
}

type countKey struct {
	client netip.Addr
	class  Class
}

type counters struct {
	mu sync.Mutex
	n  map[countKey]int
}

func (c *counters) add(client netip.Addr, class Class) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[countKey]int{}
	}
	c.n[countKey{client, class}]++
}

func (c *counters) all() []Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(c.n), func(a, b countKey) int {
		return cmp.Or(a.client.Compare(b.client), cmp.Compare(a.class, b.class))
	})
	var out []Count
	for _, key := range keys {
		out = append(out, Count{Client: key.client, Class: key.class, N: c.n[key]})
	}
	return out
}

// classify says what a path is after. It reads generously: letters of either case,
// dots, double slashes and the paths of every cloud count, and so does a GCP
// directory asked for with all that is below it, for that holds the attributes.
func classify(p, rawQuery string) Class {
	at := strings.ToLower(clean(p))
	parts := strings.Split(at, "/")[1:]
	last := parts[len(parts)-1]
	has := func(names ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return slices.Contains(names, part) })
	}
	switch {
	case at == awsTokenPath:
		return Session
	case has("security-credentials", "identity-credentials", "oauth2", "password", "public-keys", "openssh-key", "acms", "certificates"),
		strings.HasPrefix(at, "/metadata/identity"),
		has("service-accounts") && last == "token":
		return Credentials
	case has("instance-identity", "attested"),
		has("service-accounts") && last == "identity",
		has("opc") && has("identity"):
		return Identity
	case has("user-data", "userdata", "user_data", "customdata", "attributes"),
		has("opc") && has("metadata"),
		has("computemetadata") && recursive(rawQuery):
		return UserData
	}
	return Harmless
}

// recursive says whether a query asks for all that is below. The parts of a query
// that cannot be read do not hide the others.
func recursive(rawQuery string) bool {
	query, _ := url.ParseQuery(rawQuery)
	for name, values := range query {
		if strings.EqualFold(name, "recursive") && slices.ContainsFunc(values, func(v string) bool { return strings.EqualFold(v, "true") }) {
			return true
		}
	}
	return false
}
