// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/plumb-dev/plumb/internal/testutils"
)

func TestTimeServerFaults(t *testing.T) {
	t.Parallel()
	for _, family := range []string{"ipv4", "ipv6"} {
		t.Run(family, func(t *testing.T) {
			t.Parallel()
			b := newBed(t, "  cloud: none\n  family: "+family+threeNodes)
			// told is what each server tells n1 and n3: an offset rounded to 500 ms, or that
			// it is silent, which is waited for as long as it is expected.
			told := func(t *testing.T, want [2][timeServers]string) (out [2][timeServers]string) {
				t.Helper()
				for i, from := range []string{"n1", "n3"} {
					for server := range timeServers {
						offset, err := b.askTime(t, from, server, patience(want[i][server] != "silent"))
						if err != nil {
							out[i][server] = "silent"
							continue
						}
						out[i][server] = offset.Round(500 * time.Millisecond).String()
					}
				}
				return out
			}
			right := [3]string{"0s", "0s", "0s"}
			healthy := [2][3]string{right, right}
			tests := []struct {
				name, fault string
				want        [2][3]string
			}{
				{"one lies to all", "kind: ntp-lies, server: 1, offset: 2m", [2][3]string{{"0s", "2m0s", "0s"}, {"0s", "2m0s", "0s"}}},
				{"one lies to one", "kind: ntp-lies, server: 0, offset: -90s, node: n1", [2][3]string{{"-1m30s", "0s", "0s"}, right}},
				{"all lie to a zone", "kind: ntp-lies, offset: 5s, zone: b", [2][3]string{right, {"5s", "5s", "5s"}}},
				{"all lie", "kind: ntp-lies, offset: 3h", [2][3]string{{"3h0m0s", "3h0m0s", "3h0m0s"}, {"3h0m0s", "3h0m0s", "3h0m0s"}}},
				{"one falls silent", "kind: ntp-cut, server: 2", [2][3]string{{"0s", "0s", "silent"}, {"0s", "0s", "silent"}}},
				{"all fall silent for some", "kind: ntp-cut, nodes: [n3]", [2][3]string{right, {"silent", "silent", "silent"}}},
				{"all fall silent", "kind: ntp-cut", [2][3]string{{"silent", "silent", "silent"}, {"silent", "silent", "silent"}}},
			}
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					require.Equal(t, healthy, told(t, healthy))
					heal := b.inject(t, tt.fault)
					require.Equal(t, tt.want, told(t, tt.want))
					heal()
					require.Equal(t, healthy, told(t, healthy))
				})
			}
			t.Run("one smears", func(t *testing.T) {
				before, most := time.Now(), time.Duration(0)
				heal := b.inject(t, "until: 2s, kind: ntp-smear, server: 1, offset: 1s, node: n1")
				after := time.Now()
				testutils.Eventually(t, 2*arriveLimit, "it is off by all of it", func() bool {
					asked := time.Now()
					offset, err := b.askTime(t, "n1", 1, arriveLimit)
					require.NoError(t, err)
					// Half a second a second, and the error of one answer.
					require.GreaterOrEqual(t, offset, min(asked.Sub(after)/2, time.Second)-sharp)
					require.LessOrEqual(t, offset, min(time.Since(before)/2, time.Second)+sharp)
					most = max(most, offset)
					return most > time.Second-sharp
				})
				smeared := [2][3]string{{"0s", "1s", "0s"}, right}
				require.Equal(t, smeared, told(t, smeared))
				heal()
				require.Equal(t, healthy, told(t, healthy))
			})
		})
	}
}

func TestDNSBroken(t *testing.T) {
	t.Parallel()
	b := newBed(t, "  cloud: none"+threeNodes)
	const small, large = "small.lab.plumb.test.", "large.lab.plumb.test."
	// asked are the questions, by what they are called below.
	asked := func(t *testing.T, from string, want []string) (answered []string) {
		t.Helper()
		for _, q := range []struct {
			name, network, question string
			kind                    dnsmessage.Type
			edns                    int
			want                    answer
		}{
			{"small", "udp", small, dnsmessage.TypeA, 0, answer{records: 1}},
			{"small/tcp", "tcp", small, dnsmessage.TypeA, 0, answer{records: 1}},
			{"truncated", "udp", large, dnsmessage.TypeTXT, 0, answer{truncated: true}},
			{"large", "udp", large, dnsmessage.TypeTXT, 1400, answer{records: 1, bytes: 1372}},
			{"large/tcp", "tcp", large, dnsmessage.TypeTXT, 0, answer{records: 1, bytes: 1372}},
		} {
			got, err := b.resolve(t, from, q.network, q.question, q.kind, q.edns, patience(slices.Contains(want, q.name)))
			if err != nil {
				continue
			}
			if q.want.bytes == 0 {
				require.LessOrEqual(t, got.bytes, 512)
				got.bytes = 0
			}
			require.Equal(t, q.want, got, q.name)
			answered = append(answered, q.name)
		}
		return answered
	}
	all := []string{"small", "small/tcp", "truncated", "large", "large/tcp"}
	short := []string{"small", "small/tcp", "truncated"}
	tests := []struct {
		name, fault string
		n1, n2      []string
	}{
		{"all, for all", "kind: dns-broken, mode: all", nil, nil},
		{"all, for one node", "kind: dns-broken, mode: all, node: n1", nil, all},
		{"large, for all", "kind: dns-broken, mode: large", short, short},
		{"large, for a pool", "kind: dns-broken, mode: large, pool: left", short, all},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, all, asked(t, "n1/pod", all))
			heal := b.inject(t, tt.fault)
			require.Equal(t, tt.n1, asked(t, "n1/pod", tt.n1))
			require.Equal(t, tt.n2, asked(t, "n2/pod", tt.n2))
			b.passes(t, "n1/pod", "n3/pod", 1450)
			heal()
			require.Equal(t, all, asked(t, "n1/pod", all))
			require.Equal(t, all, asked(t, "n2/pod", all))
		})
	}
}

// askMetadata says in a word what a client of the metadata server gets: "well",
// "timeout", "refused", a status, "impostor", or of AWS "no token" when only version
// 1 answers. It waits as long as an answer is expected.
func (b *bed) askMetadata(t *testing.T, from, want string) string {
	t.Helper()
	base := "http://169.254.169.254"
	if b.scenario.Family == "ipv6" && !strings.Contains(from, "/") {
		base = "http://[fd00:ec2::254]"
	}
	path, headers := "", []string(nil)
	wantID := b.instance(b.at(t, from).address).ID
	require.NotEmpty(t, wantID)
	switch b.scenario.Cloud {
	case "aws":
		path = "/latest/meta-data/instance-id"
	case "azure":
		path, headers = "/metadata/instance/compute/vmId?api-version=2021-02-01&format=text", []string{"Metadata", "true"}
	case "gcp":
		path, headers = "/computeMetadata/v1/instance/id", []string{"Metadata-Flavor", "Google"}
	}
	limit := patience(want != "timeout" && want != "no token")
	if b.scenario.Cloud == "aws" {
		token, err := b.request(t, from, "PUT", base+"/latest/api/token", limit, "X-aws-ec2-metadata-token-ttl-seconds", "60")
		if got := outcome(token, err, token.body); got != "well" {
			if got == "timeout" {
				if v1, err := b.request(t, from, "GET", base+path, patience(want != "timeout")); outcome(v1, err, wantID) == "well" {
					return "no token"
				}
			}
			return got
		}
		headers = []string{"X-aws-ec2-metadata-token", token.body}
	}
	got, err := b.request(t, from, "GET", base+path, limit, headers...)
	return outcome(got, err, wantID)
}

func outcome(got reply, err error, want string) string {
	switch {
	case err != nil && strings.Contains(err.Error(), "refused"):
		return "refused"
	case err != nil:
		return "timeout"
	case got.server == "nginx" && strings.Contains(got.body, "<html>"):
		return "impostor"
	case got.status != 200:
		return map[int]string{500: "500", 429: "429", 403: "403"}[got.status]
	case got.body == want:
		return "well"
	}
	return got.body
}

func TestMetadataFaults(t *testing.T) {
	t.Parallel()
	for _, world := range []string{"cloud: aws", "cloud: azure", "cloud: gcp", "cloud: aws\n  family: ipv6"} {
		t.Run(strings.ReplaceAll(world, "\n ", ","), func(t *testing.T) {
			t.Parallel()
			b := newBed(t, "  "+world+"\n  nodes:\n    - {name: n1, zone: a}\n    - {name: n2, zone: b}\n")
			places := []string{"n1", "n1/pod", "n2", "n2/pod"}
			answered := func(t *testing.T, want []string) {
				t.Helper()
				var got []string
				for i, p := range places {
					got = append(got, b.askMetadata(t, p, want[i]))
				}
				require.Equal(t, want, got)
			}
			well := slices.Repeat([]string{"well"}, len(places))
			// What the node and its pod get.
			tests := map[string][2]string{
				"timeout": {"timeout", "timeout"}, "refuse": {"refused", "refused"}, "policy-block": {"well", "timeout"},
				"http-500": {"500", "500"}, "throttle": {"429", "429"}, "disabled": {"403", "403"}, "impostor": {"impostor", "impostor"},
			}
			if b.scenario.Cloud == "aws" {
				tests["hop-limit"] = [2]string{"well", "no token"}
			}
			for mode, want := range tests {
				t.Run(mode, func(t *testing.T) {
					answered(t, well)
					heal := b.inject(t, "kind: imds, node: n1, mode: "+mode)
					answered(t, []string{want[0], want[1], "well", "well"})
					b.passes(t, "n1", "n2", 1500)
					heal()
					answered(t, well)
				})
			}
			heal := b.inject(t, "kind: imds, mode: refuse")
			answered(t, slices.Repeat([]string{"refused"}, len(places))) // none named: everybody
			heal()
			answered(t, well)
			require.Empty(t, b.services.metadata.SecretRequests())
		})
	}
}
