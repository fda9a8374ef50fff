// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/plumb-dev/plumb/agent/nodeview"
)

// A world is every device of the node as one pass over its namespaces read them.
type world struct {
	own    *space
	spaces []*space
	byNS   map[uint32]*space
	// byID gives the namespace behind a netns id of the agent's own one.
	byID map[int32]*space
	// filtered says that namespaces outside of the view are not the node's.
	filtered bool
	failures []failure
}

// A space is one network namespace with its devices in the kernel's order.
type space struct {
	ns    nodeview.Namespace
	links []rawLink
	index map[int]int
}

// A failure is a namespace whose devices could not be read.
type failure struct {
	ns  nodeview.Namespace
	err error
}

func (s *space) link(ifindex int) *rawLink {
	if i, ok := s.index[ifindex]; ok {
		return &s.links[i]
	}
	return nil
}

// readWorld reads the devices of all namespaces of the view. An error means that
// not even the agent's own could be read; others that could not are in failures.
func (p *Probe) readWorld(ctx context.Context) (*world, error) {
	if err := p.view.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("list the node's network namespaces: %w", err)
	}
	w := &world{byNS: map[uint32]*space{}, byID: map[int32]*space{}, filtered: p.view.Filtered()}
	namespaces := p.view.Namespaces()
	vanished, err := p.readSpaces(ctx, w, namespaces)
	if err != nil {
		return nil, err
	}
	if len(vanished) > 0 {
		// Their representative processes ended since the view was made. Pods that
		// still live have another one now; leaving them out would look as if their
		// devices had been removed.
		if err := p.view.Refresh(ctx); err != nil {
			return nil, fmt.Errorf("list the node's network namespaces: %w", err)
		}
		var again []nodeview.Namespace
		for _, ns := range p.view.Namespaces() {
			if vanished[ns.Inode] != nil {
				again = append(again, ns)
			}
		}
		left, err := p.readSpaces(ctx, w, again)
		if err != nil {
			return nil, err
		}
		for _, ns := range again {
			if err := left[ns.Inode]; err != nil {
				w.failures = append(w.failures, failure{ns, err})
			}
		}
	}
	if w.own == nil {
		return nil, errors.New("read the agent's own devices: its network namespace is not in the node's view")
	}
	// Dumps refer to the agent's own namespace by id as well; the kernel makes one
	// during the dump if there was none, hence asked last.
	id, err := p.conn.netnsid(p.ownFD)
	if err != nil {
		return nil, err
	}
	if id != netnsUnknownID {
		w.byID[id] = w.own
	}
	return w, nil
}

// readSpaces adds namespaces to w and returns those that were gone, by inode.
func (p *Probe) readSpaces(ctx context.Context, w *world, namespaces []nodeview.Namespace) (map[uint32]error, error) {
	vanished := map[uint32]error{}
	for _, ns := range namespaces {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("read devices: %w", context.Cause(ctx))
		}
		s := &space{ns: ns}
		id := int32(netnsUnknownID)
		var err error
		if ns.Own {
			s.links, err = p.conn.links(netnsUnknownID, make([]rawLink, 0, p.lastOwn+8))
			if err != nil {
				return nil, fmt.Errorf("read the agent's own devices: %w", err)
			}
			p.lastOwn = len(s.links)
			w.own = s
		} else {
			id, s.links, err = p.readForeign(ns)
		}
		switch {
		case errors.Is(err, errVanished):
			vanished[ns.Inode] = err
			continue
		case err != nil:
			w.failures = append(w.failures, failure{ns, err})
			continue
		}
		s.index = make(map[int]int, len(s.links))
		for i := range s.links {
			s.index[s.links[i].index] = i
		}
		w.spaces = append(w.spaces, s)
		w.byNS[ns.Inode] = s
		if id != netnsUnknownID {
			w.byID[id] = s
		}
	}
	return vanished, nil
}

func (p *Probe) readForeign(ns nodeview.Namespace) (int32, []rawLink, error) {
	fd, err := openNamespace(ns)
	if err != nil {
		return 0, nil, err
	}
	defer unix.Close(fd)
	id, err := p.conn.assignNetnsid(fd)
	if err != nil {
		return 0, nil, err
	}
	links, err := p.conn.links(id, make([]rawLink, 0, 4))
	return id, links, err
}

// linkSpace is the namespace that a device's IFLA_LINK is a number in; nil when
// that is not in the view.
func (w *world) linkSpace(s *space, l *rawLink) *space {
	if l.linkNetnsid == noNetnsid {
		return s
	}
	return w.byID[l.linkNetnsid]
}

// peer finds the other end of a pair.
func (w *world) peer(s *space, l *rawLink) (*space, *rawLink) {
	if !isPair(l.kind) || !l.hasLink || l.link == 0 {
		return nil, nil
	}
	if other := w.linkSpace(s, l); other != nil {
		if end := other.link(l.link); end != nil {
			return other, end
		}
	}
	return nil, nil
}

func isPair(kind string) bool { return kind == "veth" || kind == "netkit" || kind == "vxcan" }

// incomplete describes, in one line, the devices that are missing; nil when none
// is.
func (w *world) incomplete(unreadable int) error {
	if len(w.failures) > 0 {
		f := w.failures[0]
		err := fmt.Errorf("read devices of %d of %d network namespaces (first: %s): %w",
			len(w.failures), len(w.failures)+len(w.spaces), namespaceName(f.ns), f.err)
		if errors.Is(f.err, fs.ErrPermission) {
			return fmt.Errorf("%w: give the agent CAP_NET_ADMIN and CAP_SYS_PTRACE", err)
		}
		return err
	}
	if unreadable > 0 {
		return fmt.Errorf("find the network namespaces of %d processes: permission denied: their pods' devices are missing: give the agent CAP_SYS_PTRACE", unreadable)
	}
	return nil
}

func namespaceName(ns nodeview.Namespace) string {
	switch {
	case ns.PodUID != "":
		return "pod " + ns.PodUID
	case ns.Name != "":
		return "namespace " + ns.Name
	case ns.Own:
		return "the agent's own"
	}
	return fmt.Sprintf("namespace %d", ns.Inode)
}
