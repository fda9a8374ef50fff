// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package traffic is what runs in the lab's pods: applications that send and
// receive, and say what they saw of the network: when a transfer stopped to move,
// when one failed, when it went on. The lab's own process reads that and answers
// when a fault first reached an application.
package traffic
