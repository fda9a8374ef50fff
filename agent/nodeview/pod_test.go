// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package nodeview

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	uidA = "3f2c8a1e-6d0b-4b57-9a0e-1c2d3e4f5a6b"
	uidB = "0a1b2c3d-4e5f-4607-8899-aabbccddeeff"
	hash = "8a7f5e0c1b2d3a4958677685940312ab"
)

func underscores(uid string) string { return strings.ReplaceAll(uid, "-", "_") }

func TestPodUID(t *testing.T) {
	const container = "cri-containerd-6f0c0b7f7e0c4f1aa1b2.scope"
	for name, tc := range map[string]struct{ cgroup, want string }{
		"v2, systemd, burstable":    {"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + underscores(uidA) + ".slice/" + container + "\n", uidA},
		"v2, systemd, guaranteed":   {"0::/kubepods.slice/kubepods-pod" + underscores(uidA) + ".slice/" + container + "\n", uidA},
		"v2, cgroupfs, best effort": {"0::/kubepods/besteffort/pod" + uidA + "/6f0c0b7f7e0c\n", uidA},
		"v2, cgroupfs, guaranteed":  {"0::/kubepods/pod" + uidA + "/6f0c0b7f7e0c\n", uidA},
		"v1, systemd": {"12:memory:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + underscores(uidA) + ".slice/" + container +
			"\n1:name=systemd:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + underscores(uidA) + ".slice/" + container + "\n", uidA},
		"v1, cgroupfs, first controller at the root": {"3:rdma:/\n2:cpu,cpuacct:/kubepods/burstable/pod" + uidA + "/6f0c\n", uidA},
		"static pod, whose UID is a hash":            {"0::/kubepods/burstable/pod" + hash + "/6f0c\n", hash},
		"static pod, systemd":                        {"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + hash + ".slice/x.scope\n", hash},
		"kind, below kubelet.slice":                  {"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + underscores(uidA) + ".slice/" + container + "\n", uidA},
		"kind, below /kubelet":                       {"0::/kubelet/kubepods/burstable/pod" + uidA + "/6f0c\n", uidA},
		"seen from another cgroup namespace":         {"0::/../../pod" + uidA + "/6f0c\n", uidA},
		"a node inside a pod: the inner pod counts":  {"0::/kubepods/pod" + uidA + "/6f0c/kubelet/kubepods/pod" + uidB + "/77aa\n", uidB},
		"no line end":                                {"0::/kubepods/pod" + uidA + "/c", uidA},
		"a service of the host":                      {"0::/system.slice/containerd.service\n", ""},
		"the kubepods root":                          {"0::/kubepods.slice/kubepods-burstable.slice\n", ""},
		"a docker container":                         {"0::/system.slice/docker-0123456789abcdef.scope\n", ""},
		"a podman pod":                               {"0::/machine.slice/machine-libpod_pod_" + hash + hash + ".slice/libpod-1.scope\n", ""},
		"a unit that merely begins with pod":         {"0::/system.slice/podman.service\n", ""},
		"a UID with a digit too few":                 {"0::/kubepods/pod" + uidA[1:] + "/c\n", ""},
		"a UID with a letter that is no hex":         {"0::/kubepods/podz" + uidA[1:] + "/c\n", ""},
		"dashes at wrong places":                     {"0::/kubepods/pod" + strings.Repeat("-", 36) + "/c\n", ""},
		"empty":                                      {"", ""},
		"no colon":                                   {"nonsense\n", ""},
		"one colon":                                  {"0:cpu\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.want, PodUID(tc.cgroup))
		})
	}
}

// Real files of several platforms: testdata/cgroup/<platform>, whose first line
// is the UID expected ("-" for none).
func TestPodUIDOfRecordedFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/cgroup/*")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			want, cgroup, _ := strings.Cut(string(b), "\n")
			if want == "-" {
				want = ""
			}
			require.Equal(t, want, PodUID(cgroup))
		})
	}
}

func FuzzPodUID(f *testing.F) {
	f.Add("0::/kubepods/pod" + uidA + "/c\n")
	f.Add("0::/kubepods.slice/kubepods-pod" + underscores(uidA) + ".slice/c.scope\n")
	f.Add("1:name=systemd:/\n0::/../pod" + hash)
	f.Add("::\n:::-pod.slice\n")
	f.Fuzz(func(t *testing.T, cgroup string) {
		uid := PodUID(cgroup)
		if uid == "" {
			return
		}
		require.Contains(t, []int{32, 36}, len(uid))
		require.Contains(t, strings.ReplaceAll(cgroup, "_", "-"), uid)
		// What was found is found again in its plainest form.
		require.Equal(t, uid, PodUID("0::/kubepods/pod"+uid))
	})
}
