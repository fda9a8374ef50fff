// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"time"

	"github.com/plumb-dev/plumb/agent/nodeview"
)

const (
	// fibAge is how long an answer of the FIB is used while no notification says
	// that anything changed. It bounds what a lost notification can cost.
	fibAge = 60 * time.Second
	// foreignFIBAge is the same for other namespaces, which send none.
	foreignFIBAge = 30 * time.Second
	// fewEntries is the size up to which a forwarding table is read anew each time.
	// Its changes are not subscribed to, for a learning table changes all the time.
	fewEntries = 512
)

// A fibCache remembers what the kernel answered, so that a node with thousands
// of remotes asks for each once a minute instead of every ten seconds. It is not
// safe for concurrent use.
type fibCache struct {
	now      func() time.Duration
	ways     map[wayKey]way
	over     map[deviceID]overEntry
	tables   map[deviceID]tableEntry
	byFamily map[int]overEntry // default routes by family
}

type wayKey struct {
	netns uint32
	question
}

type way struct {
	route route
	err   error
	at    time.Duration
}

type overEntry struct {
	routes []route
	at     time.Duration
}

type tableEntry struct {
	remotes []fdbRemote
	groups  int
	at      time.Duration
}

func newFIBCache(now func() time.Duration) *fibCache {
	c := &fibCache{now: now}
	c.forget()
	return c
}

// forget drops every answer of the FIB; forwarding tables do not depend on it.
func (f *fibCache) forget() {
	f.ways = map[wayKey]way{}
	f.over = map[deviceID]overEntry{}
	f.byFamily = map[int]overEntry{}
	if f.tables == nil {
		f.tables = map[deviceID]tableEntry{}
	}
}

// expire drops what is too old to be used, so that remotes and devices that are
// gone do not pile up.
func (f *fibCache) expire() {
	now := f.now()
	for k, e := range f.ways {
		if now-e.at >= fibAge {
			delete(f.ways, k)
		}
	}
	for k, e := range f.over {
		if now-e.at >= fibAge {
			delete(f.over, k)
		}
	}
	for k, e := range f.tables {
		if now-e.at >= fibAge {
			delete(f.tables, k)
		}
	}
}

func (f *fibCache) fresh(at time.Duration, ns nodeview.Namespace) bool {
	if ns.Own {
		return f.now()-at < fibAge
	}
	return f.now()-at < foreignFIBAge
}

// configured is conn.configured, remembered; so is that there is no route.
func (f *fibCache) configured(c *conn, ns nodeview.Namespace, q question) (route, error) {
	k := wayKey{ns.Inode, q}
	if w, ok := f.ways[k]; ok && f.fresh(w.at, ns) {
		return w.route, w.err
	}
	r, err := c.configured(q)
	f.ways[k] = way{r, err, f.now()}
	return r, err
}

// routesOver lists the routes of both families over a device.
func (f *fibCache) routesOver(c *conn, ns nodeview.Namespace, ifindex int) ([]route, error) {
	k := deviceID{ns.Inode, ifindex}
	if e, ok := f.over[k]; ok && f.fresh(e.at, ns) {
		return e.routes, nil
	}
	var out []route
	for _, family := range families {
		r, err := c.routesOver(family, ifindex)
		if err != nil {
			return nil, err
		}
		out = append(out, r...)
	}
	f.over[k] = overEntry{out, f.now()}
	return out, nil
}

func (f *fibCache) defaults(c *conn, family int) ([]route, error) {
	if e, ok := f.byFamily[family]; ok && f.now()-e.at < fibAge {
		return e.routes, nil
	}
	r, err := c.defaultRoutes(family)
	if err != nil {
		return nil, err
	}
	f.byFamily[family] = overEntry{r, f.now()}
	return r, nil
}

func (f *fibCache) forwarding(c *conn, ns nodeview.Namespace, ifindex int) ([]fdbRemote, int, error) {
	k := deviceID{ns.Inode, ifindex}
	if e, ok := f.tables[k]; ok && len(e.remotes) > fewEntries && f.fresh(e.at, ns) {
		return e.remotes, e.groups, nil
	}
	remotes, groups, err := c.fdbRemotes(ifindex)
	if err != nil {
		return nil, 0, err
	}
	f.tables[k] = tableEntry{remotes, groups, f.now()}
	return remotes, groups, nil
}
