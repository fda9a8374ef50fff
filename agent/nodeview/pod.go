// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package nodeview

import "strings"

// PodUID returns the UID of the pod that a process is in, from the content of
// its /proc/PID/cgroup; empty when it is in none.
//
// The kubelet (pkg/kubelet/cm/cgroup_manager_linux.go) makes, for cgroup v1 and
// v2 alike,
//
//	cgroupfs  /kubepods/burstable/pod<uid>/<container>
//	systemd   /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid with _>.slice/<container>
//
// with anything in front (--cgroup-root, kind). Seen from another cgroup
// namespace the front is replaced by "/..", so that only the pod's own component
// can be relied on. Where pods are nested (a node inside a pod) the innermost
// counts, for that is the one that the agent's own API server knows.
func PodUID(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		// "hierarchy:controllers:path"; controllers may hold "=" but no colon.
		_, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !ok {
			continue
		}
		_, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		if uid := podUIDOfPath(path); uid != "" {
			return uid
		}
	}
	return ""
}

func podUIDOfPath(path string) string {
	for path != "" {
		i := strings.LastIndexByte(path, '/')
		if uid := podUIDOfComponent(path[i+1:]); uid != "" {
			return uid
		}
		if i < 0 {
			return ""
		}
		path = path[:i]
	}
	return ""
}

func podUIDOfComponent(c string) string {
	if slice, ok := strings.CutSuffix(c, ".slice"); ok {
		i := strings.LastIndex(slice, "-pod")
		if i < 0 {
			return ""
		}
		return validUID(strings.ReplaceAll(slice[i+len("-pod"):], "_", "-"))
	}
	if uid, ok := strings.CutPrefix(c, "pod"); ok {
		return validUID(uid)
	}
	return ""
}

// validUID accepts the two forms of pod UID: a UUID, and the 32 hex digits of the
// hash that names a static pod.
func validUID(s string) string {
	switch len(s) {
	case 36:
		for i := range len(s) {
			dash := i == 8 || i == 13 || i == 18 || i == 23
			if dash != (s[i] == '-') || !dash && !isHex(s[i]) {
				return ""
			}
		}
		return s
	case 32:
		for i := range len(s) {
			if !isHex(s[i]) {
				return ""
			}
		}
		return s
	}
	return ""
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
