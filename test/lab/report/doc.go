// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package report says what a run of the lab came to: the JSON result of one
// scenario, a live timeline for people, the table of a suite and the list of
// scenarios. It decides nothing about verdicts (package judge does) and starts
// nothing; RunSuite schedules what its caller gives it.
package report
