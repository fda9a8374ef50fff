// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package metadata

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAWSHandsOutTokensAsDocumented(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, AWS, nil)
	base := serve(t, s, "127.0.0.1:0")
	const ttl = "X-aws-ec2-metadata-token-ttl-seconds: "
	for name, c := range map[string]struct {
		method, path string
		headers      []string
		status       int
	}{
		"the shortest":          {"PUT", awsTokenPath, []string{ttl + "1"}, 200},
		"the longest":           {"PUT", awsTokenPath, []string{ttl + "21600"}, 200},
		"too long":              {"PUT", awsTokenPath, []string{ttl + "21601"}, 400},
		"no time":               {"PUT", awsTokenPath, []string{ttl + "0"}, 400},
		"negative":              {"PUT", awsTokenPath, []string{ttl + "-1"}, 400},
		"signed":                {"PUT", awsTokenPath, []string{ttl + "+60"}, 400},
		"not a number":          {"PUT", awsTokenPath, []string{ttl + "1h"}, 400},
		"without the header":    {"PUT", awsTokenPath, nil, 400},
		"through a proxy":       {"PUT", awsTokenPath, []string{ttl + "60", "X-Forwarded-For: 10.9.1.2"}, 403},
		"asked for with GET":    {"GET", awsTokenPath, []string{ttl + "60"}, 405},
		"PUT to another path":   {"PUT", "/latest/meta-data/instance-id", []string{ttl + "60"}, 405},
		"GET without a token":   {"GET", "/latest/meta-data/instance-id", nil, 401},
		"GET with another":      {"GET", "/latest/meta-data/instance-id", []string{"X-aws-ec2-metadata-token: AQAAAA=="}, 401},
		"nothing, not a token":  {"GET", "/latest/meta-data/nothing", nil, 401},
		"the root, not a token": {"GET", "/", nil, 401},
	} {
		t.Run(name, func(t *testing.T) {
			got := ask(t, client(t, ""), c.method, base+c.path, c.headers...)
			require.Equal(t, c.status, got.status)
			require.Equal(t, "EC2ws", got.header.Get("Server"))
			if c.status == 200 {
				require.Len(t, got.body, 56)
				require.NotEmpty(t, got.header.Get(awsTokenTTLHeader))
			}
		})
	}
}

func TestAWSTellsEachNodeItsOwn(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, AWS, nil)
	base := serve(t, s, "127.0.0.1:0")
	one, two := client(t, "127.0.0.1"), client(t, "127.0.0.2")
	token := awsTokenHeader + ": " + ask(t, one, "PUT", base+awsTokenPath, awsTokenTTLHeader+": 60").body
	for path, want := range map[string]string{
		"/latest/meta-data/instance-id":                 "i-1",
		"/latest/meta-data/instance-type":               "m7i.large",
		"/latest/meta-data/placement/availability-zone": "lab-1a",
		"/latest/meta-data/placement/region":            "lab-1",
		"/latest//meta-data/./instance-id":              "i-1",
		"/latest/meta-data/placement/":                  "availability-zone\nregion",
		"/latest/meta-data/placement":                   "availability-zone\nregion",
		"/":                                             "latest/",
	} {
		got := ask(t, one, "GET", base+path, token)
		require.Equal(t, 200, got.status, path)
		require.Equal(t, want, got.body, path)
		require.Equal(t, "60", got.header.Get(awsTokenTTLHeader))
	}
	require.Equal(t, 404, ask(t, one, "GET", base+"/latest/meta-data/nothing", token).status)
	require.Equal(t, 401, ask(t, two, "GET", base+"/latest/meta-data/instance-id", token).status, "a token is for one instance")
	token = awsTokenHeader + ": " + ask(t, two, "PUT", base+awsTokenPath, awsTokenTTLHeader+": 60").body
	require.Equal(t, "i-2", ask(t, two, "GET", base+"/latest/meta-data/instance-id", token).body)
	none := client(t, "127.0.0.3")
	token = awsTokenHeader + ": " + ask(t, none, "PUT", base+awsTokenPath, awsTokenTTLHeader+": 60").body
	require.Equal(t, 404, ask(t, none, "GET", base+"/latest/meta-data/instance-id", token).status)
}

func TestATokenOfAWSEnds(t *testing.T) {
	t.Parallel()
	s, clock := newServer(t, AWS, nil)
	base := serve(t, s, "127.0.0.1:0")
	token := awsTokenHeader + ": " + ask(t, client(t, ""), "PUT", base+awsTokenPath, awsTokenTTLHeader+": 60").body
	clock.advance(59 * time.Second)
	got := ask(t, client(t, ""), "GET", base+"/latest/meta-data/instance-id", token)
	require.Equal(t, 200, got.status)
	require.Equal(t, "1", got.header.Get(awsTokenTTLHeader))
	clock.advance(time.Second)
	require.Equal(t, 401, ask(t, client(t, ""), "GET", base+"/latest/meta-data/instance-id", token).status)
}

func TestVersionOneOfAWSNeedsNoToken(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, AWS, func(c *Config) { c.AllowV1 = true })
	base := serve(t, s, "127.0.0.1:0")
	require.Equal(t, "i-1", ask(t, client(t, ""), "GET", base+"/latest/meta-data/instance-id").body)
	require.Equal(t, 401, ask(t, client(t, ""), "GET", base+"/latest/meta-data/instance-id", awsTokenHeader+": wrong").status,
		"a token that is given is looked at")
}

func TestAzureAnswersAsDocumented(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, Azure, nil)
	base := serve(t, s, "127.0.0.1:0")
	const instance = "/metadata/instance?api-version=2021-02-01"
	const leaf = "/metadata/instance/compute/vmId?api-version=2021-02-01"
	for name, c := range map[string]struct {
		method, path string
		headers      []string
		status       int
		body         string
	}{
		"versions":             {"GET", "/metadata/versions", []string{"Metadata: true"}, 200, `"2021-02-01"`},
		"versions, no header":  {"GET", "/metadata/versions", nil, 400, "Required metadata header not specified"},
		"wrong header":         {"GET", instance, []string{"Metadata: false"}, 400, "Required metadata header not specified"},
		"through a proxy":      {"GET", instance, []string{"Metadata: true", "X-Forwarded-For: 10.9.1.2"}, 400, "X-Forwarded-For"},
		"no version":           {"GET", "/metadata/instance", []string{"Metadata: true"}, 400, `"newest-versions":["2021-12-13"`},
		"another version":      {"GET", "/metadata/instance?api-version=1999-01-01", []string{"Metadata: true"}, 400, "newest-versions"},
		"the whole":            {"GET", instance, []string{"Metadata: true"}, 200, `"vmId":"i-1"`},
		"the whole as json":    {"GET", instance + "&format=json", []string{"Metadata: true"}, 200, `"vmSize":"m7i.large"`},
		"the whole as text":    {"GET", instance + "&format=text", []string{"Metadata: true"}, 200, "compute/"},
		"another format":       {"GET", instance + "&format=xml", []string{"Metadata: true"}, 400, "json or text"},
		"a leaf as text":       {"GET", leaf + "&format=text", []string{"Metadata: true"}, 200, "i-1"},
		"a leaf without":       {"GET", leaf, []string{"Metadata: true"}, 400, "format=text"},
		"what is not there":    {"GET", "/metadata/nothing?api-version=2021-02-01", []string{"Metadata: true"}, 404, "Not found"},
		"with another method":  {"POST", instance, []string{"Metadata: true"}, 405, "Use GET"},
		"the token path's PUT": {"PUT", awsTokenPath, []string{"Metadata: true"}, 405, "Use GET"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ask(t, client(t, ""), c.method, base+c.path, c.headers...)
			require.Equal(t, c.status, got.status)
			require.Contains(t, got.body, c.body)
			require.Contains(t, got.header.Get("Server"), "IMDS/")
		})
	}
	var document struct {
		Compute struct{ VMID, Location, Zone, Name string }
	}
	got := ask(t, client(t, "127.0.0.2"), "GET", base+instance, "Metadata: True")
	require.NoError(t, json.Unmarshal([]byte(got.body), &document))
	require.Equal(t, "i-2", document.Compute.VMID)
	require.Equal(t, "lab-1", document.Compute.Location)
	require.Equal(t, "lab-1b", document.Compute.Zone)
	require.Equal(t, "n2", document.Compute.Name)
	require.Equal(t, 404, ask(t, client(t, "127.0.0.3"), "GET", base+instance, "Metadata: true").status)
}

func TestGCPAnswersAsDocumented(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, GCP, nil)
	base := serve(t, s, "127.0.0.1:0")
	const flavor = "Metadata-Flavor: Google"
	const id = "/computeMetadata/v1/instance/id"
	for name, c := range map[string]struct {
		method, path string
		headers      []string
		status       int
		body         string
	}{
		"the id":                   {"GET", id, []string{flavor}, 200, "i-1"},
		"the id as json":           {"GET", id + "?alt=json", []string{flavor}, 200, `"i-1"`},
		"the zone":                 {"GET", "/computeMetadata/v1/instance/zone", []string{flavor}, 200, "projects/123456789012/zones/lab-1a"},
		"the type":                 {"GET", "/computeMetadata/v1/instance/machine-type", []string{flavor}, 200, "projects/123456789012/machineTypes/m7i.large"},
		"the project":              {"GET", "/computeMetadata/v1/project/project-id", []string{flavor}, 200, "plumb-lab"},
		"a directory":              {"GET", "/computeMetadata/v1/project/", []string{flavor}, 200, "numeric-project-id\nproject-id\n"},
		"a directory, no slash":    {"GET", "/computeMetadata/v1/project", []string{flavor}, 301, "/computeMetadata/v1/project/"},
		"the root, without header": {"GET", "/", nil, 200, "computeMetadata/\n"},
		"without the header":       {"GET", id, nil, 403, "Missing Metadata-Flavor:Google header"},
		"another flavour":          {"GET", id, []string{"Metadata-Flavor: Other"}, 403, "Missing"},
		"through a proxy":          {"GET", id, []string{flavor, "X-Forwarded-For: 10.9.1.2"}, 403, "X-Forwarded-For"},
		"what is not there":        {"GET", "/computeMetadata/v1/instance/nothing", []string{flavor}, 404, "not found"},
		"with another method":      {"PUT", id, []string{flavor}, 405, "not allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ask(t, client(t, ""), c.method, base+c.path, c.headers...)
			require.Equal(t, c.status, got.status)
			require.Contains(t, got.body, c.body)
			require.Equal(t, "Google", got.header.Get("Metadata-Flavor"))
			require.Equal(t, "Metadata Server for VM", got.header.Get("Server"))
		})
	}
	require.Equal(t, "i-2", ask(t, client(t, "127.0.0.2"), "GET", base+id, flavor).body)
	require.Equal(t, 404, ask(t, client(t, "127.0.0.3"), "GET", base+id, flavor).status)
}

func TestTheServerAnswersOverIPv6(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, GCP, nil)
	base := serve(t, s, "[::1]:0")
	require.Equal(t, "i-1", ask(t, client(t, ""), "GET", base+"/computeMetadata/v1/instance/id", "Metadata-Flavor: Google").body)
}
