// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package podgroup makes the cgroups that the kubelet would make for a pod, named
// as it names them, so that the agent finds the pod's UID where it looks for it.
package podgroup
