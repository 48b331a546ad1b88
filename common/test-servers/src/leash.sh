# Runs a server until it ends or standard input does: the test that holds the other end may be killed at any moment.
# $1: its log; then its command. Tells the server's process id in one line.
log=$1
shift
exec 3<&0 </dev/null
"$@" >>"$log" 2>&1 3<&- &
server=$!
echo "$server"
{ read -r _ <&3; kill -9 "$server"; } >/dev/null 2>&1 &
leash=$!
wait "$server" 2>/dev/null
# The id is free from here on, so nothing may be left that would kill it.
kill "$leash" 2>/dev/null
