// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return root
}

func TestDiscoverServers(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  []string
		err   string
	}{
		{name: "nothing is configured: nobody is asked"},
		{
			name: "chrony with directories, as Debian ships it",
			files: map[string]string{
				"etc/chrony/chrony.conf": "# comment\n! comment\nconfdir /etc/chrony/conf.d\nsourcedir /run/chrony-dhcp /etc/chrony/sources.d\n" +
					"POOL 2.debian.pool.ntp.org iburst\nkeyfile /etc/chrony/chrony.keys\nserver\n",
				"etc/chrony/conf.d/aws.conf":        "server 169.254.169.123 prefer iburst minpoll 4\n",
				"etc/chrony/conf.d/ignored.txt":     "server ignored.example.com\n",
				"etc/chrony/sources.d/mine.sources": "server ntp.example.com port 1123 iburst\n",
				"run/chrony-dhcp/eth0.sources":      "server 192.0.2.7 iburst\n",
				"etc/systemd/timesyncd.conf":        "[Time]\nNTP=unused.example.com\n",
			},
			want: []string{"ntp.org/2.debian.pool.ntp.org:123", "link-local/169.254.169.123:123", "192.0.2.7/192.0.2.7:123", "example.com/ntp.example.com:1123"},
		},
		{
			name:  "chrony as RHEL ships it",
			files: map[string]string{"etc/chrony.conf": "pool 2.rhel.pool.ntp.org iburst # comment\ninclude /etc/chrony.d/*.conf\n", "etc/chrony.d/a.conf": "server ntp.example.com\n"},
			want:  []string{"ntp.org/2.rhel.pool.ntp.org:123", "example.com/ntp.example.com:123"},
		},
		{
			name:  "an include that includes itself ends",
			files: map[string]string{"etc/chrony.conf": "include /etc/chrony.conf\nserver ntp.example.com\n"},
			want:  []string{"example.com/ntp.example.com:123"},
		},
		{
			name:  "an include cannot leave the root",
			files: map[string]string{"etc/chrony.conf": "include /../../../../../../etc/host*\nserver ntp.example.com\n"},
			want:  []string{"example.com/ntp.example.com:123"},
		},
		{
			name:  "ntpd without its reference clocks",
			files: map[string]string{"etc/ntp.conf": "server 127.127.1.0\nserver -4 ntp.example.com iburst\npool 0.pool.ntp.org\n"},
			want:  []string{"example.com/ntp.example.com:123", "ntp.org/0.pool.ntp.org:123"},
		},
		{
			name: "timesyncd: a drop-in clears the list, the fallback is not used",
			files: map[string]string{
				"etc/systemd/timesyncd.conf":             "[Time]\nNTP=old.example.com\n#NTP=no.example.com\nFallbackNTP=ntp.ubuntu.com\n",
				"etc/systemd/timesyncd.conf.d/mine.conf": "[Time]\nNTP=\nNTP=a.example.com b.example.org\n[Other]\nNTP=c.example.com\n",
			},
			want: []string{"example.com/a.example.com:123", "example.org/b.example.org:123"},
		},
		{
			name:  "timesyncd with the fallback only",
			files: map[string]string{"etc/systemd/timesyncd.conf": "[Time]\nFallbackNTP=ntp.ubuntu.com\n"},
			want:  []string{"ubuntu.com/ntp.ubuntu.com:123"},
		},
		{
			name:  "one bad line does not hide the good ones",
			files: map[string]string{"etc/chrony.conf": "server bad/name\nserver ntp.example.com\n"},
			want:  []string{"example.com/ntp.example.com:123"}, err: "bad/name",
		},
		{
			name:  "dozens are cut to eight",
			files: map[string]string{"etc/ntp.conf": "server 192.0.2." + strings.Join(strings.Split("1 2 3 4 5 6 7 8 9", " "), "\nserver 192.0.2.") + "\n"},
			want: []string{"192.0.2.1/192.0.2.1:123", "192.0.2.2/192.0.2.2:123", "192.0.2.3/192.0.2.3:123", "192.0.2.4/192.0.2.4:123",
				"192.0.2.5/192.0.2.5:123", "192.0.2.6/192.0.2.6:123", "192.0.2.7/192.0.2.7:123", "192.0.2.8/192.0.2.8:123"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			servers, err := DiscoverServers(tree(t, tt.files))
			if tt.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tt.err)
			}
			var got []string
			for _, s := range servers {
				got = append(got, s.key())
			}
			require.Equal(t, tt.want, got)
		})
	}
}

func TestDiscoverServersNamesWhatItCannotRead(t *testing.T) {
	root := tree(t, map[string]string{"etc/chrony.conf/is-a-directory": ""})
	_, err := DiscoverServers(root)
	require.ErrorContains(t, err, "chrony.conf")
}

func FuzzDiscover(f *testing.F) {
	f.Add([]byte("server a.example.com port 12\nconfdir /x /y\n"), []byte("[Time]\nNTP=a b\n"))
	f.Add([]byte("server -4\npool\n\n#"), []byte("[Time\nNTP"))
	f.Fuzz(func(t *testing.T, conf, timesyncd []byte) {
		for _, address := range append(parseChronyConf(conf).addresses, parseNTPConf(conf)...) {
			require.NotEmpty(t, address)
		}
		var c timesyncdConf
		c.parse(timesyncd)
		for _, address := range c.servers() {
			require.NotEmpty(t, address)
		}
	})
}
