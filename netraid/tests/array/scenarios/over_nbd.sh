say "a leg behind nbd-server: its server is killed, the mirror goes on, and it comes back in part"
[ -x "$nbd_server" ] || { echo "nbd-server is not built"; exit 0; }
serve() {
	"$nbd_server" --listen 127.0.0.1:10809 --export data=/dev/ubdb --print-ready >/run/ready &
	server=$!
	while [ ! -s /run/ready ]; do sleep 0.05; done
}
attach() {
	nbd-client -N data 127.0.0.1 10809 "$1" -timeout 5 -block-size 4096
}
serve
array create --tag data --disk /dev/ubda --nodes server1,server2 --node server1 --chunk 64
array start --tag data --disk /dev/ubda
attach /dev/nbd0
array add --tag data --node server2 --leg /dev/nbd0 --wait --timeout 60
write 1 30
settle
kill -9 $server
write 5 3 &
writer=$!
array watch --tag data --until degraded --timeout 30
wait $writer || fail "the application saw an error"
array status --tag data
expect "['legs'][1]['status']" Unknown
write 12 1
rm -f /run/ready
serve
attach /dev/nbd1
if command -v nbdinfo >/dev/null; then
	nbdinfo --map=x-netraid:dirty nbd://127.0.0.1/data
fi
array add --tag data --node server2 --leg /dev/nbd1 --wait --timeout 60 | tee /run/added
grep -q "in part" /run/added || fail "not in part"
array status --tag data
array stop --tag data
nbd-client -d /dev/nbd1
kill $server
wait $server || true
legs_equal /dev/ubda /dev/ubdb
