// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package apiv1 is the generated read API of plumb-aggregator; the
// contract itself and its comments are in api.proto.
package apiv1

//go:generate sh -c "cd ../../.. && protoc --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --plugin=protoc-gen-connect-go=$(go tool -n protoc-gen-connect-go) --go_out=. --go_opt=module=github.com/plumb-dev/plumb --connect-go_out=. --connect-go_opt=module=github.com/plumb-dev/plumb aggregator/api/v1/api.proto"
