// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package httpserve runs an HTTP server of the lab on listeners that others opened,
// and leaves no goroutine behind.
package httpserve
