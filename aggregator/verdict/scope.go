// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/aggregator/state"
	"github.com/plumb-dev/plumb/evidence"
)

// Kinds of scope.
const (
	scopeNode   = "Node"
	scopeDevice = "Device"
	scopePod    = "Pod"
)

// A scope is where a verdict holds. The node is always part of it: evidence of
// one node must never feed a verdict on another, whatever that node claims
// about pods or devices.
type scope struct {
	Kind   string `json:"kind"`
	Node   string `json:"node"`
	Device string `json:"device,omitempty"`
	Pod    string `json:"pod,omitempty"`
}

// id names the verdict of one signature on one scope in one cluster: 16 hex
// digits of a hash of the keys that define it, so that replicas and restarts
// agree. Devices count by name and pod, not by the index that the kernel gave
// them.
func (s scope) id(cluster, signatureID string) string {
	h := sha256.New()
	for _, part := range []string{cluster, signatureID, s.Kind, s.Node, s.Device, s.Pod} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// covers says whether other is the same scope or a narrower one.
func (s scope) covers(other scope) bool {
	if s.Node != other.Node {
		return false
	}
	switch s.Kind {
	case scopeNode:
		return true
	case scopePod:
		return s.Pod == other.Pod && s.Pod != ""
	default:
		return other.Kind == scopeDevice && s.Device == other.Device && s.Pod == other.Pod
	}
}

// scopeOf is the scope that a subject belongs to under a signature.
func scopeOf(catalog *evidence.Catalog, sig *signature.Signature, view *state.View, subject evidence.Subject) scope {
	out := scope{Kind: sig.Scope, Node: view.Node.Name}
	switch {
	case sig.Scope == scopePod && subject.PodUID != "":
		out.Pod = subject.PodUID
	case sig.Scope == scopeDevice, sig.Scope == scopePod:
		// A thing that belongs to no known pod is named by its device.
		out.Kind = scopeDevice
		device := deviceOf(catalog, view, subject)
		out.Device, out.Pod = device.Name, device.PodUID
	default:
		out.Kind = scopeNode
	}
	return out
}

// deviceOf climbs from a subject to the device that it belongs to. A subject
// without one, or whose device is not reported, stands for itself.
func deviceOf(catalog *evidence.Catalog, view *state.View, subject evidence.Subject) evidence.Subject {
	at := subject
	for at.Kind != evidence.SubjectDevice {
		kind, ok := catalog.Subject(at.Kind)
		if !ok || kind.Parent == "" {
			return subject
		}
		parent, ok := view.Parent(at, kind.Parent)
		if !ok {
			return subject
		}
		at = parent
	}
	return at
}

// byStrength sorts results so that the one that speaks for the scope is first:
// highest grade, then most bans, then subject. A refutation speaks for the scope
// only when nothing holds on it.
func byStrength(results []signature.Result) {
	slices.SortStableFunc(results, func(a, b signature.Result) int {
		if a.Grade != b.Grade {
			return int(b.Grade) - int(a.Grade)
		}
		if a.Bans != b.Bans {
			if a.Bans > b.Bans {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Subject.Key, b.Subject.Key)
	})
}
