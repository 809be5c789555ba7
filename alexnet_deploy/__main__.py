"""`python -m alexnet_deploy`."""

from alexnet_deploy.cli.main import main

main()
