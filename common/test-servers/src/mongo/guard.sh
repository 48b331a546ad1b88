# Runs the mongod that test processes share, and ends it some seconds after the last of them is gone.
# $1: the folder they share, $2: the folder of the data; then the server's command. Tells the server's process id in one line.
# Whoever uses the server holds a shared lock on `users`, which the kernel takes back when a process dies, however it dies.
folder=$1
data=$2
shift 2
exec 9>>"$folder/users"
# Nothing is left behind either when this guard is killed.
setpriv --pdeathsig KILL "$@" >>"$folder/log" 2>&1 9>&- &
server=$!
echo "$server"
exec >/dev/null
# The first group of tests is over before the next begins: a server that is idle for a moment is not yet one that nobody wants.
linger=10
# `guard` names the guard as long as there is something to end.
end() {
    kill -9 "$server" 2>/dev/null
    wait "$server" 2>/dev/null
    rm -rf "$data"
    if [ "$(cat "$folder/guard")" = $$ ]; then rm -f "$folder/port" "$folder/guard"; fi
    exit
}
trap end TERM
echo $$ >"$folder/guard"
idle=0
while kill -0 "$server" 2>/dev/null; do
    if flock -n -x 9; then
        # While this lock is held, nobody can begin to use the server.
        [ "$idle" -lt "$linger" ] || end
        idle=$((idle + 1))
        flock -u 9
    else
        idle=0
    fi
    sleep 1 9>&-
done
end
